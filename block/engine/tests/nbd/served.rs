//! An NBD server on a thread of its own, and programs that use it.

use std::{
    cell::RefCell,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Output},
    rc::Rc,
    sync::mpsc::{Receiver, Sender, channel},
    thread::JoinHandle,
};

use strata_block::{
    api::{BlockStream, Cmd, Reply},
    engine::{DiskSpec, Engine},
    nbd::{Export, Server},
};
use strata_exec::Watched;
use strata_graph::{DiskOptions, Format, chain::ImageOptions, disk::Disk};
use strata_storage::{
    is_nbd_uri,
    nbd::wire::{Address, TlsServer},
};

/// What a test asks of the server's thread.
type Errand = Box<dyn FnOnce(&Rc<Engine>, &Rc<Server>) + Send>;

/// A server on `unix:nbd.sock` in a directory of its own, until dropped.
pub struct Served {
    directory: Option<tempfile::TempDir>,
    errands: Sender<Errand>,
    waker: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

/// A disk to export under its own id.
pub struct Exported {
    pub id: &'static str,
    pub file: &'static str,
    pub format: Format,
    pub writable: bool,
}

impl Served {
    /// Serves images that `prepare` has put into the directory.
    pub fn new(prepare: impl FnOnce(&Path), disks: Vec<Exported>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path());
        let (errands, inbox) = channel();
        let (waker, woken) = UnixStream::pair().unwrap();
        let path = directory.path().to_owned();
        let (ready, wait) = channel();
        let thread = std::thread::spawn(move || run(path, disks, inbox, woken, &ready));
        wait.recv().expect("the server starts");
        Self {
            directory: Some(directory),
            errands,
            waker: Some(waker),
            thread: Some(thread),
        }
    }

    /// Serves one writable raw disk `disk` of `size` bytes.
    pub fn raw(size: u64) -> Self {
        let prepare = |directory: &Path| {
            let file = std::fs::File::create(directory.join("disk.raw")).unwrap();
            file.set_len(size).unwrap();
        };
        let disk = Exported {
            id: "disk",
            file: "disk.raw",
            format: Format::Raw,
            writable: true,
        };
        Self::new(prepare, vec![disk])
    }

    pub fn path(&self, name: &str) -> String {
        let directory = self.directory.as_ref().unwrap().path();
        directory.join(name).display().to_string()
    }

    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.path("nbd.sock"))
    }

    pub fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path("nbd.sock")).unwrap()
    }

    /// Stops the server; its directory stays.
    pub fn stop(mut self) -> tempfile::TempDir {
        self.directory.take().unwrap()
    }

    /// Runs `errand` on the server's thread and waits until it has been started.
    pub fn on_thread<T: Send + 'static>(
        &self,
        errand: impl FnOnce(&Rc<Engine>, &Rc<Server>) -> T + Send + 'static,
    ) -> T {
        let (answer, wait) = channel();
        let errand: Errand = Box::new(move |engine, server| {
            let _ = answer.send(errand(engine, server));
        });
        self.errands.send(errand).unwrap();
        self.waker.as_ref().unwrap().write_all(b"!").unwrap();
        wait.recv().unwrap()
    }

    /// Has a command started that succeeds.
    pub fn execute(&self, cmd: Cmd) {
        self.on_thread(move |engine, _| {
            engine.execute(cmd, Box::new(|reply| assert_eq!(reply, Ok(Reply::Done))));
        });
    }

    /// Starts to merge the whole chain of `disk`, at this many bytes per second.
    pub fn stream(&self, speed: u64) {
        self.execute(Cmd::BlockStream(BlockStream {
            device: "disk".to_owned(),
            speed: Some(speed),
            ..BlockStream::default()
        }));
    }

    /// How many jobs there are.
    pub fn jobs(&self) -> usize {
        self.on_thread(|engine, _| {
            let answer = Rc::new(RefCell::new(None));
            let slot = answer.clone();
            engine.execute(
                Cmd::QueryBlockJobs,
                Box::new(move |reply| *slot.borrow_mut() = Some(reply)),
            );
            match answer.take() {
                Some(Ok(Reply::BlockJobs(jobs))) => jobs.len(),
                other => panic!("{other:?}"),
            }
        })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.waker.take();
        let ended = self.thread.take().unwrap().join();
        if !std::thread::panicking() {
            ended.expect("the server's thread ends in good order");
        }
    }
}

fn run(
    directory: PathBuf,
    disks: Vec<Exported>,
    errands: Receiver<Errand>,
    woken: UnixStream,
    ready: &Sender<()>,
) {
    let engine = Engine::new(|_| {}).unwrap();
    let exports: Vec<_> = disks
        .into_iter()
        .map(|disk| Export {
            name: disk.id.to_owned(),
            description: None,
            disk: open(&engine, &directory, &disk).by_bytes(),
            writable: disk.writable,
            bitmaps: Vec::new(),
        })
        .collect();
    let exec = engine.exec().clone();
    let address = Address::Unix(directory.join("nbd.sock"));
    // Where there are certificates they are meant to be used.
    let tls = directory.join("server-cert.pem").exists();
    let tls = tls.then(|| TlsServer::load(&directory, true).unwrap());
    woken.set_nonblocking(true).unwrap();
    let woken = Watched::new(&exec, woken).unwrap();
    let ready = ready.clone();
    let for_server = engine.clone();
    exec.block_on(async move {
        let engine = for_server;
        let server = Server::start(engine.exec(), address, None, tls)
            .await
            .unwrap();
        for export in exports {
            server.add(export).unwrap();
        }
        ready.send(()).unwrap();
        while woken
            .readable(|mut woken| woken.read(&mut [0]))
            .await
            .unwrap()
            > 0
        {
            for errand in errands.try_iter() {
                errand(&engine, &server);
            }
        }
        server.stop().await;
    });
    assert!(engine.shut_down().is_empty());
}

fn open(engine: &Rc<Engine>, directory: &Path, disk: &Exported) -> Disk {
    engine
        .open_disk(DiskSpec {
            path: if is_nbd_uri(disk.file.as_ref()) {
                disk.file.into()
            } else {
                directory.join(disk.file)
            },
            image: ImageOptions {
                format: Some(disk.format),
                read_only: !disk.writable,
                discard: true,
                ..Default::default()
            },
            disk: DiskOptions {
                id: disk.id.to_owned(),
                discard: true,
                ..Default::default()
            },
        })
        .unwrap()
}

/// Bytes that differ everywhere, the same for the same seed.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let words = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(len).collect()
}

/// Stops the server and has `qemu-img` check an image that it has served.
pub fn stop_and_check(served: Served, image: &str) {
    let directory = served.stop();
    let image = directory.path().join(image).display().to_string();
    run_client("qemu-img", &["check", "-f", "qcow2", &image]);
}

/// Writes 3 MiB from `offset` on at random, several requests at a time, and verifies them.
pub fn fio(uri: &str, offset: u64) {
    let (uri, offset) = (format!("--uri={uri}"), format!("--offset={offset}"));
    let args = [
        "--name=load",
        "--ioengine=nbd",
        &uri,
        "--rw=randrw",
        "--bsrange=4k-64k",
        "--iodepth=16",
        &offset,
        "--size=3M",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--do_verify=1",
        "--fsync=16",
        "--output-format=terse",
    ];
    run_client("fio", &args);
}

/// Runs a program that has to succeed within a minute, and returns its output.
pub fn run_client(program: &str, args: &[&str]) -> String {
    let output = try_client(program, args);
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a program for at most a minute.
pub fn try_client(program: &str, args: &[&str]) -> Output {
    Command::new("timeout")
        .args(["60", program])
        .args(args)
        // Debian's own Python has the module that nbdsh needs.
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap_or_else(|error| panic!("{program} could not be run: {error}"))
}
