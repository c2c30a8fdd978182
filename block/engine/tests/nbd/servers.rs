//! The client in front of other people's servers.

use std::{
    cell::Cell,
    net::{TcpListener, TcpStream},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    process::{Child, Command},
    rc::Rc,
    time::Duration,
};

use strata_block::engine::{DiskSpec, Engine};
use strata_exec::mem::SgList;
use strata_graph::{
    DiskOptions, Format,
    chain::ImageOptions,
    disk::{Disk, Op, Request},
};
use strata_storage::error::{IoError, IoResult};

use crate::served::Served;

/// A program that serves at a socket; killed when dropped.
pub struct Server {
    child: Child,
    pub socket: PathBuf,
}

impl Server {
    pub fn start(socket: &Path, program: &str, args: &[&str]) -> Self {
        let mut command = Command::new(program);
        let mut child = command
            .args(args)
            .spawn()
            .expect("the server's program runs");
        while !is_ready(socket) {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "{program} {args:?} has ended: {ended:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self {
            child,
            socket: socket.to_owned(),
        }
    }

    /// `nbdkit` at `socket`.
    pub fn nbdkit(socket: &Path, args: &[&str]) -> Self {
        let path = socket.display().to_string();
        let fixed = ["--foreground", "--newstyle", "--unix", &path];
        Self::start(socket, "nbdkit", &[&fixed, args].concat())
    }

    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }
}

/// Whether a server has made `path`: a file, or a socket at which it listens. A socket's file alone
/// shows nothing: a killed server leaves it, and a new one makes it before it listens. To connect
/// would be a client, of which some servers have one.
fn is_ready(path: &Path) -> bool {
    const ACCEPTS: &str = "00010000";
    let Ok(metadata) = std::fs::metadata(path) else {
        return false;
    };
    if !metadata.file_type().is_socket() {
        return true;
    }
    let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
    let path = path.display().to_string();
    sockets.lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        fields.get(3) == Some(&ACCEPTS) && fields.get(7) == Some(&path.as_str())
    })
}

/// A web server that shows a directory at a port of 127.0.0.1; killed when dropped.
pub struct WebServer {
    child: Child,
    pub port: u16,
}

impl WebServer {
    pub fn start(directory: &Path) -> Self {
        // The port is free again when the listener is dropped, and given to nobody else so soon.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let child = Command::new("busybox")
            .args(["httpd", "-f", "-p", &format!("127.0.0.1:{port}"), "-h"])
            .arg(directory)
            .spawn()
            .expect("busybox runs");
        let server = Self { child, port };
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }
}

impl Drop for WebServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// An engine with disks on exports.
pub struct Bench {
    pub engine: Rc<Engine>,
    pub directory: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        Self {
            engine: Engine::new(|_| {}).unwrap(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Opens `file`, a path or a URI; requests wait for `patience` seconds.
    pub fn open(&self, file: &str, format: Format, patience: u64) -> Result<Disk, String> {
        let spec = DiskSpec {
            path: file.into(),
            image: ImageOptions {
                format: Some(format),
                reconnect_delay: Some(Duration::from_secs(patience)),
                discard: true,
                ..Default::default()
            },
            disk: DiskOptions {
                id: "disk".to_owned(),
                discard: true,
                ..Default::default()
            },
        };
        self.engine
            .open_disk(spec)
            .map_err(|error| error.to_string())
    }

    pub fn run(&self, disk: &Disk, op: Op, offset: u64, len: u64, data: SgList) -> IoResult<()> {
        let disk = disk.clone();
        let request = Request {
            op,
            offset,
            len,
            data,
        };
        self.engine
            .exec()
            .block_on(async move { disk.run(request).await })
    }

    pub fn write(&self, disk: &Disk, offset: u64, bytes: Vec<u8>) -> IoResult<()> {
        let (op, len) = (Op::Write { fua: false }, bytes.len() as u64);
        self.run(disk, op, offset, len, SgList::from_vec(bytes))
    }

    pub fn read(&self, disk: &Disk, offset: u64, len: u64) -> IoResult<Vec<u8>> {
        let data = SgList::zeroed(len as usize);
        self.run(disk, Op::Read, offset, len, data.clone())?;
        Ok(data.to_vec())
    }

    /// Polls the engine for a while.
    pub fn idle(&self, time: Duration) {
        let exec = self.engine.exec().clone();
        let until = std::time::Instant::now() + time;
        let sleeper = exec.clone();
        exec.block_on(async move { sleeper.sleep_until(until).await });
    }
}

const SIZE: u64 = 8 << 20;

/// Random writes, zeroes and discards against a model in memory, whose bytes must come back.
pub fn agrees_with_a_model(bench: &Bench, disk: &Disk) {
    assert_eq!(disk.info().size, SIZE);
    let mut model = vec![0u8; SIZE as usize];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for round in 0..300 {
        let sectors = 1 + random(if round % 50 == 0 { 8192 } else { 64 });
        let start = random(SIZE / 512 - sectors + 1) * 512;
        let len = sectors * 512;
        let range = start as usize..(start + len) as usize;
        let nothing = SgList::empty();
        match random(4) {
            0 => {
                let op = Op::WriteZeroes {
                    unmap: random(2) == 0,
                };
                bench.run(disk, op, start, len, nothing).unwrap();
                model[range].fill(0);
            }
            1 => assert!(bench.read(disk, start, len).unwrap() == model[range]),
            _ => {
                let byte = random(255) as u8 + 1;
                bench.write(disk, start, vec![byte; len as usize]).unwrap();
                model[range].fill(byte);
            }
        }
    }
    bench.run(disk, Op::Flush, 0, 0, SgList::empty()).unwrap();
    assert!(bench.read(disk, 0, SIZE).unwrap() == model);
    // What is discarded reads as before or as zeros.
    bench
        .run(disk, Op::Discard, 0, SIZE, SgList::empty())
        .unwrap();
    let left = bench.read(disk, 0, SIZE).unwrap();
    assert!(
        left.iter()
            .zip(&model)
            .all(|(now, before)| *now == 0 || now == before)
    );
}

#[test]
fn nbdkit_with_and_without_structured_replies() {
    for extra in [&[][..], &["--no-sr"], &["--filter=nozero"]] {
        let bench = Bench::new();
        let args = [extra, &["memory", "8M"]].concat();
        let server = Server::nbdkit(&bench.path("sock"), &args);
        let disk = bench.open(&server.uri(), Format::Raw, 5).unwrap();
        agrees_with_a_model(&bench, &disk);
    }
}

#[test]
fn a_server_that_takes_whole_blocks_only() {
    let bench = Bench::new();
    let server = Server::nbdkit(
        &bench.path("sock"),
        &[
            "--filter=blocksize-policy",
            "memory",
            "8M",
            "blocksize-minimum=4096",
            "blocksize-maximum=256K",
            "blocksize-error-policy=error",
        ],
    );
    let disk = bench.open(&server.uri(), Format::Raw, 5).unwrap();
    agrees_with_a_model(&bench, &disk);
}

#[test]
fn a_slow_server() {
    let bench = Bench::new();
    let args = ["--filter=delay", "memory", "8M", "delay-read=300ms"];
    let server = Server::nbdkit(&bench.path("sock"), &args);
    let disk = bench.open(&server.uri(), Format::Raw, 1).unwrap();
    // Slowness is no reason to give up, and requests do not queue behind each other.
    let left = Rc::new(Cell::new(16));
    for i in 0..16 {
        let (count, data) = (left.clone(), SgList::zeroed(512));
        let (op, offset, len) = (Op::Read, i * 512, 512);
        let request = Request {
            op,
            offset,
            len,
            data,
        };
        disk.submit(request, move |result| {
            result.unwrap();
            count.set(count.get() - 1);
        });
    }
    while left.get() > 0 {
        bench.idle(Duration::from_millis(10));
    }
}

#[test]
fn qemu_nbd_over_tcp() {
    let bench = Bench::new();
    let image = bench.path("disk.raw");
    std::fs::write(&image, vec![0; SIZE as usize]).unwrap();
    let image = image.display().to_string();
    // A port that was free a moment ago.
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port().to_string()
    };
    let mark = bench.path("pid");
    let pid = format!("--pid-file={}", mark.display());
    let args = [
        "-f",
        "raw",
        "-t",
        "--shared=4",
        "-b",
        "127.0.0.1",
        "-p",
        &port,
        "-x",
        "name",
        &pid,
        &image,
    ];
    let _server = Server::start(&mark, "qemu-nbd", &args);
    let uri = format!("nbd://127.0.0.1:{port}/name");
    let disk = bench.open(&uri, Format::Raw, 5).unwrap();
    agrees_with_a_model(&bench, &disk);
}

#[test]
fn our_own_server() {
    let served = Served::raw(SIZE);
    let bench = Bench::new();
    let disk = bench.open(&served.uri("disk"), Format::Raw, 5).unwrap();
    agrees_with_a_model(&bench, &disk);
}

#[test]
fn what_cannot_be_opened_is_one_line() {
    let served = Served::raw(SIZE);
    let bench = Bench::new();
    let nobody = format!("nbd+unix:///x?socket={}", bench.path("nobody").display());
    let server = Server::nbdkit(&bench.path("ro"), &["--readonly", "memory", "8M"]);
    for (uri, expected) in [
        (
            nobody.as_str(),
            "could not connect to 'nbd+unix:///x?socket=",
        ),
        (
            "nbd+unix:///x",
            "is not a usable NBD URI: the socket is missing",
        ),
        ("nbds://host/x", "?tls-certificates=DIR"),
        (&served.uri("other"), "it has no export 'other'"),
        (
            &server.uri(),
            "the server exports it read-only: say readonly=on",
        ),
    ] {
        let error = bench.open(uri, Format::Raw, 5).err().unwrap();
        assert!(
            error.contains(expected) && !error.contains('\n'),
            "{uri}: {error}"
        );
    }
}

#[test]
fn an_export_does_not_grow() {
    let served = Served::raw(SIZE);
    let bench = Bench::new();
    let uri = served.uri("disk");
    let error = bench.open(&uri, Format::Qcow2, 5).err().unwrap();
    assert!(error.contains(&uri), "{error}");
    let disk = bench.open(&uri, Format::Raw, 5).unwrap();
    let past_the_end = bench.write(&disk, SIZE, vec![1; 512]);
    assert!(matches!(past_the_end, Err(IoError::OutOfRange)));
}
