//! A running `strata serve` in a directory of its own, and those who talk to it.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    rc::Rc,
    time::Duration,
};

pub use rustix::process::Signal;
use rustix::process::{Pid, Resource, getrlimit, kill_process, prlimit};

/// Long enough for a busy machine; a test that waits so long fails.
const PATIENCE: Duration = Duration::from_secs(120);

/// The process; killed if it is still there when dropped.
pub struct Serve {
    directory: Rc<tempfile::TempDir>,
    args: Vec<String>,
    child: Child,
}

fn command(directory: &Path, args: &[String]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
    command.arg("serve").args(args).current_dir(directory);
    command
}

/// A directory with an empty `disk.qcow2` of 64 MiB.
pub fn prepared() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let image = directory.path().join("disk.qcow2").display().to_string();
    qemu_img(&["create", "-q", "-f", "qcow2", &image, "64M"]);
    directory
}

/// What a directory holds.
fn names(directory: &Path) -> BTreeSet<OsString> {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

impl Serve {
    /// Serves an empty `disk.qcow2` of 64 MiB; paths in `args` are relative to its directory.
    pub fn start(args: &[&str]) -> Self {
        let args = args.iter().map(ToString::to_string).collect();
        Self::spawn(Rc::new(prepared()), args)
    }

    /// Serves what a directory holds.
    pub fn start_in(directory: tempfile::TempDir, args: &[&str]) -> Self {
        let args = args.iter().map(ToString::to_string).collect();
        Self::spawn(Rc::new(directory), args)
    }

    /// The same once more.
    pub fn again(&self) -> Self {
        Self::spawn(self.directory.clone(), self.args.clone())
    }

    /// Serves what its directory holds in another way.
    pub fn otherwise(&self, args: &[&str]) -> Self {
        let args = args.iter().map(ToString::to_string).collect();
        Self::spawn(self.directory.clone(), args)
    }

    fn spawn(directory: Rc<tempfile::TempDir>, args: Vec<String>) -> Self {
        let mut command = command(directory.path(), &args);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        if args.iter().any(|arg| arg == "--export") {
            // It says where the export is once it is there.
            let mut line = String::new();
            let mut stderr = BufReader::new(child.stderr.as_mut().unwrap());
            stderr.read_line(&mut line).unwrap();
            assert!(line.starts_with("strata: serving "), "{line}");
        }
        Self {
            directory,
            args,
            child,
        }
    }

    /// Exit code and standard error of one that has nothing to serve, and cleans up behind itself.
    pub fn refused(args: &[&str]) -> (Option<i32>, String) {
        Self::refused_in(&prepared(), args)
    }

    /// The same in a directory that [`prepared`] has made.
    pub fn refused_in(directory: &tempfile::TempDir, args: &[&str]) -> (Option<i32>, String) {
        let before = names(directory.path());
        let args: Vec<_> = args.iter().map(ToString::to_string).collect();
        let output = command(directory.path(), &args).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(names(directory.path()), before, "{args:?}: {error}");
        (output.status.code(), error)
    }

    pub fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}", self.path("nbd.sock"))
    }

    /// A client of the monitor at `unix:qmp`.
    pub fn qmp(&self) -> Qmp {
        let path = self.path("qmp");
        let stream = loop {
            match UnixStream::connect(&path) {
                Ok(stream) => break stream,
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut qmp = Qmp(BufReader::new(stream));
        qmp.line();
        qmp.run(r#"{"execute":"qmp_capabilities"}"#);
        qmp
    }

    /// Runs `strata ctl` on the socket `qmp`: exit code, standard output and standard error.
    pub fn ctl(&self, args: &[&str]) -> (Option<i32>, String, String) {
        // It listens now.
        drop(self.qmp());
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
        command.args(["ctl", "qmp"]).args(args);
        let output = command.current_dir(self.directory.path()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    }

    /// The output of a `strata ctl` that succeeds.
    pub fn ctl_done(&self, args: &[&str]) -> String {
        let (code, output, error) = self.ctl(args);
        assert_eq!((code, &*error), (Some(0), ""), "{args:?}: {output}");
        output
    }

    /// What `strata ctl jobs` says when `root` is being streamed.
    pub fn jobs_once_copying(&self) -> String {
        loop {
            let jobs = self.ctl_done(&["jobs"]);
            if jobs.contains("\nroot  stream  copying  ") {
                return jobs;
            }
            assert!(jobs.contains("\nroot  stream  counting  "), "{jobs}");
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Lets its files grow to this many bytes, or as far as they can.
    pub fn limit_files(&self, bytes: Option<u64>) {
        let mut limit = getrlimit(Resource::Fsize);
        limit.current = bytes.or(limit.maximum);
        let pid = Pid::from_child(&self.child);
        prlimit(Some(pid), Resource::Fsize, limit).unwrap();
    }

    /// Waits for its end, and returns the exit code.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        // Fails only where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A QMP client.
pub struct Qmp(BufReader<UnixStream>);

impl Qmp {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the monitor closed the connection");
        line
    }

    /// Runs a command that has to succeed, passing over events.
    pub fn run(&mut self, command: &str) -> String {
        self.0.get_mut().write_all(command.as_bytes()).unwrap();
        loop {
            let line = self.line();
            assert!(!line.starts_with(r#"{"error""#), "{command}: {line}");
            if line.starts_with(r#"{"return""#) {
                return line;
            }
        }
    }

    /// Runs a command, and returns its answer: that it has done it, or an error.
    pub fn answer(&mut self, command: &str) -> String {
        self.0.get_mut().write_all(command.as_bytes()).unwrap();
        loop {
            let line = self.line();
            if !line.starts_with(r#"{"timestamp""#) {
                return line;
            }
        }
    }

    /// Runs a command, and returns all that comes up to its answer.
    pub fn up_to_answer(&mut self, command: &str) -> Vec<String> {
        self.0.get_mut().write_all(command.as_bytes()).unwrap();
        let mut lines = Vec::new();
        loop {
            lines.push(self.line());
            if lines.last().unwrap().starts_with(r#"{"return""#) {
                return lines;
            }
        }
    }

    /// Waits for an event, and returns its line.
    pub fn event(&mut self, name: &str) -> String {
        let wanted = format!(r#""event": "{name}""#);
        loop {
            let line = self.line();
            if line.contains(&wanted) {
                return line;
            }
        }
    }
}

/// Runs a program that has to succeed, and returns its output.
pub fn client(program: &str, args: &[&str]) -> String {
    let output = Command::new("timeout")
        .arg("120")
        .arg(program)
        .args(args)
        .output();
    let output = output.unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub fn qemu_img(args: &[&str]) {
    client("qemu-img", args);
}
