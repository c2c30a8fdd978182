use std::{
    fs::File,
    io::IoSlice,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use strata_exec::Executor;

use super::Access;
use crate::{FileOptions, FileStorage, error::Error};

struct Bench {
    exec: std::rc::Rc<Executor>,
    directory: tempfile::TempDir,
}

impl Bench {
    /// With a qcow2 image of 1 MiB: of raw ones QEMU's programs lock less.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let exec = Executor::new().unwrap();
        let bench = Self { exec, directory };
        let created = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(bench.path())
            .arg("1M")
            .status();
        assert!(created.unwrap().success());
        bench
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    fn open(&self, read_only: bool, force_share: bool) -> Result<FileStorage, Error> {
        let options = FileOptions {
            read_only,
            force_share,
            ..Default::default()
        };
        FileStorage::open(&self.exec, &self.path(), options)
    }

    fn writer(&self) -> Result<FileStorage, Error> {
        self.open(false, false)
    }

    fn reader(&self) -> Result<FileStorage, Error> {
        self.open(true, false)
    }
}

fn text(result: Result<FileStorage, Error>) -> String {
    result.err().expect("is refused").to_string()
}

/// Runs a tool on the image; what it said if it failed.
fn tool(program: &str, arguments: &[&str], path: &Path) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .arg(path)
        .output()
        .unwrap();
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8(output.stderr).unwrap())
}

fn qemu_io_write(path: &Path) -> Result<(), String> {
    tool("qemu-io", &["-f", "qcow2", "-c", "write -q 0 512"], path)
}

fn qemu_img_info(path: &Path) -> Result<(), String> {
    tool("qemu-img", &["info", "-f", "qcow2"], path)
}

/// qemu-storage-daemon with the image open; killed at the end.
struct Daemon(Child);

impl Daemon {
    fn start(path: &Path, read_only: &str) -> Self {
        let socket = path.with_extension("sock");
        let node = format!(
            "driver=file,node-name=file,read-only={read_only},filename={}",
            path.display()
        );
        let image = format!("driver=qcow2,node-name=image,read-only={read_only},file=file");
        let export = "nbd,id=e,node-name=image,name=e,writable=".to_owned()
            + if read_only == "on" { "off" } else { "on" };
        let mut child = Command::new("qemu-storage-daemon")
            .args(["--blockdev", &node])
            .args(["--blockdev", &image, "--nbd-server"])
            .arg(format!("addr.type=unix,addr.path={}", socket.display()))
            .args(["--export", &export])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // An export takes the image's locks; the connection shows that it is there.
        let uri = format!("nbd+unix:///e?socket={}", socket.display());
        while tool("qemu-img", &["info"], Path::new(&uri)).is_err() {
            assert_eq!(child.try_wait().unwrap(), None, "the daemon has ended");
        }
        Self(child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn two_writers_of_one_process_do_not_meet() {
    let bench = Bench::new();
    let first = bench.writer().unwrap();
    let error = text(bench.writer());
    let path = bench.path();
    let expected = format!(
        "could not open '{0}': Failed to get \"write\" lock. Is another process using the image \
         [{0}]? This process has it open.",
        path.display()
    );
    assert_eq!(error, expected);
    drop(first);
    bench.writer().unwrap();
}

#[test]
fn readers_share_and_keep_writers_out() {
    let bench = Bench::new();
    let readers = (bench.reader().unwrap(), bench.reader().unwrap());
    assert!(text(bench.writer()).contains("Failed to get \"write\" lock"));
    drop(readers);
    let _writer = bench.writer().unwrap();
    assert!(text(bench.reader()).contains("Failed to get shared \"write\" lock"));
}

#[test]
fn locks_follow_the_use() {
    let bench = Bench::new();
    let file = bench.writer().unwrap();
    file.lock(Access::Read).unwrap();
    let reader = bench.reader().unwrap();
    assert!(matches!(
        file.lock(Access::Write),
        Err(Error::Locked { .. })
    ));
    // What failed has left no lock behind, and taken none away.
    drop(bench.reader().unwrap());
    assert!(bench.writer().is_err());
    drop(reader);
    file.lock(Access::Write).unwrap();
    assert!(bench.reader().is_err());
    file.lock(Access::None).unwrap();
    bench.writer().unwrap();
}

#[test]
fn a_forced_reader_neither_asks_nor_holds() {
    let bench = Bench::new();
    let writer = bench.writer().unwrap();
    let forced = bench.open(true, true).unwrap();
    drop(writer);
    bench.writer().unwrap();
    drop(forced);
}

#[test]
fn force_share_does_not_let_a_second_writer_in() {
    let bench = Bench::new();
    let _writer = bench.writer().unwrap();
    assert!(bench.open(false, true).is_err());
}

#[test]
fn qemus_programs_stay_out_of_what_we_write() {
    let bench = Bench::new();
    let writer = bench.writer().unwrap();
    let error = qemu_io_write(&bench.path()).unwrap_err();
    assert!(error.contains("Failed to get \"write\" lock"), "{error}");
    let error = qemu_img_info(&bench.path()).unwrap_err();
    assert!(
        error.contains("Failed to get shared \"write\" lock"),
        "{error}"
    );
    tool("qemu-img", &["info", "-U", "-f", "qcow2"], &bench.path()).unwrap();
    writer.lock(Access::Read).unwrap();
    qemu_img_info(&bench.path()).unwrap();
    let error = qemu_io_write(&bench.path()).unwrap_err();
    assert!(error.contains("Failed to get \"write\" lock"), "{error}");
    drop(writer);
    qemu_io_write(&bench.path()).unwrap();
}

#[test]
fn we_stay_out_of_what_qemu_writes_and_name_it() {
    let bench = Bench::new();
    let daemon = Daemon::start(&bench.path(), "off");
    for (error, lock) in [
        (text(bench.writer()), "\"write\""),
        (text(bench.reader()), "shared \"write\""),
    ] {
        assert!(
            error.contains(&format!("Failed to get {lock} lock")),
            "{error}"
        );
        let holder = format!("Process {} (qemu-storage-da) has it open.", daemon.0.id());
        assert!(error.ends_with(&holder), "{error}");
    }
    bench.open(true, true).unwrap();
    // However the other one ends.
    drop(daemon);
    bench.writer().unwrap();
}

#[test]
fn we_read_what_qemu_reads() {
    let bench = Bench::new();
    let _daemon = Daemon::start(&bench.path(), "on");
    bench.reader().unwrap();
    assert!(text(bench.writer()).contains("Failed to get \"write\" lock"));
}

/// The kernel keeps an open file on its way through a socket as it keeps one that it writes to for
/// a process that has died: with its locks, and in no process.
#[test]
fn what_only_the_kernel_holds_is_waited_for() {
    let bench = Bench::new();
    let file = File::options().read(true).write(true).open(bench.path());
    let file = file.unwrap();
    super::change(&file, Access::None, Access::Write).unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    let descriptors = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut messages = SendAncillaryBuffer::new(&mut space);
    assert!(messages.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let byte = [IoSlice::new(b"x")];
    sendmsg(&near, &byte, &mut messages, SendFlags::empty()).unwrap();
    drop(file);
    let closer = thread::spawn(move || {
        // The other thread has been refused by then.
        thread::sleep(Duration::from_millis(300));
        drop((near, far));
    });
    bench.writer().unwrap();
    closer.join().unwrap();
}

/// A ring's writes past the page cache go on when their process has died. They hold the open file
/// that they go to, and nothing else.
#[test]
fn locks_end_with_the_last_write_past_the_page_cache() {
    let bench = Bench::new();
    let options = FileOptions {
        direct: true,
        ..Default::default()
    };
    for read_only in [false, true] {
        let options = FileOptions {
            read_only,
            ..options
        };
        let writer = FileStorage::open(&bench.exec, &bench.path(), options).unwrap();
        if read_only {
            writer.make_writable().unwrap();
        }
        let descriptor = writer.direct_file().unwrap().as_raw_fd();
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{descriptor}")).unwrap();
        // Nobody else may write, or make it longer.
        assert!(
            info.contains(" 201 201") && info.contains(" 203 203"),
            "{info}"
        );
    }
}

/// What [`another_process_of_ours_stays_out`] starts.
#[test]
#[ignore = "is the second process of another test"]
fn second_process() {
    let path = std::env::var_os("STRATA_LOCK_TEST").expect("the image's path");
    let exec = Executor::new().unwrap();
    let result = FileStorage::open(&exec, Path::new(&path), FileOptions::default());
    println!("second process: {}", text(result));
}

#[test]
fn another_process_of_ours_stays_out() {
    let bench = Bench::new();
    let _writer = bench.writer().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "lock::tests::second_process",
            "--nocapture",
            "--ignored",
        ])
        .env("STRATA_LOCK_TEST", bench.path())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    // Which process it names depends on what the other tests fork at this moment.
    assert!(
        said.contains("Failed to get \"write\" lock") && said.contains(") has it open."),
        "{said}"
    );
}
