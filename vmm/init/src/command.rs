//! Runs the command, with its streams on the channel.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::AsRawFd,
        unix::{fs::symlink, process::ExitStatusExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        mpsc::{self, Sender},
    },
    thread,
    time::Duration,
};

use crate::{EXIT_PIPE, channel::Channel, frame, plan::Plan, sys};

/// Where the command puts results, as it sees it.
pub const OUT: &str = "/run/strata/out";
/// `strata-exit` and its like.
const TOOLS: &str = "/run/strata/bin";
/// Where the commands are in the initramfs, if the host has them.
const BUSYBOX: &str = "/bin/busybox";
/// Once the command has ended, its streams are done with when they have ended, or nothing has come
/// for so long.
const AFTERGLOW: Duration = Duration::from_secs(1);

const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;
const SIGNALLED: i32 = 128;

/// How the guest ends, as one of its threads sees it.
enum End {
    Status(u8),
    /// All that a stream had has been sent.
    Stream,
}

/// Runs it to its end; its exit status.
pub fn run(channel: &Arc<Channel>, plan: &Plan, root: &Path) -> Result<u8, String> {
    make_tools().map_err(|error| format!("/run/strata: {error}"))?;
    let (ends, ended) = mpsc::channel();
    watch_for_exit(ends.clone());
    let started = match plan.terminal {
        Some((rows, columns)) => on_terminal(channel, plan, root, (rows, columns), &ends),
        None => on_pipes(channel, plan, root, &ends),
    };
    let (child, streams) = match started {
        Ok(started) => started,
        Err(error) => {
            let (status, why) = refusal(plan, root, &error);
            channel.send(frame::MESSAGE, why.as_bytes());
            return Ok(status);
        }
    };
    wait_in_background(child, ends);
    let mut left = streams;
    let status = loop {
        match ended.recv() {
            Ok(End::Status(status)) => break status,
            Ok(End::Stream) => left -= 1,
            Err(_) => return Err("all threads have ended".to_owned()),
        }
    };
    let mut sent = channel.sent();
    while left > 0 {
        match ended.recv_timeout(AFTERGLOW) {
            Ok(End::Stream) => left -= 1,
            Ok(End::Status(_)) => {}
            // A process that the command has left behind may keep a stream open for ever.
            Err(_) if channel.sent() == sent && !channel.is_sending() => break,
            Err(_) => sent = channel.sent(),
        }
    }
    Ok(status)
}

fn make_tools() -> io::Result<()> {
    fs::create_dir_all(OUT)?;
    fs::create_dir_all(TOOLS)?;
    fs::copy("/init", format!("{TOOLS}/strata-init"))?;
    symlink("strata-init", format!("{TOOLS}/strata-exit"))?;
    sys::make_fifo(EXIT_PIPE)
}

/// Ends the guest when `strata-exit` says so.
fn watch_for_exit(ends: Sender<End>) {
    thread::spawn(move || {
        let mut status = [0];
        let read = File::open(EXIT_PIPE).and_then(|mut pipe| pipe.read_exact(&mut status));
        if read.is_ok() {
            let _ = ends.send(End::Status(status[0]));
        }
    });
}

fn wait_in_background(mut child: Child, ends: Sender<End>) {
    thread::spawn(move || {
        let status = child.wait().map_or(NOT_EXECUTABLE, exit_status);
        let _ = ends.send(End::Status(status));
    });
}

/// As a shell gives it.
fn exit_status(status: ExitStatus) -> u8 {
    let signal = || status.signal().map(|signal| SIGNALLED + signal);
    let code = status.code().or_else(signal).unwrap_or(SIGNALLED);
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// Why the command cannot be run, and the exit status for that.
fn refusal(plan: &Plan, root: &Path, error: &io::Error) -> (u8, String) {
    let name = plan.command.first().map(PathBuf::from).unwrap_or_default();
    let in_root = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let is_there = |path: &Path| fs::symlink_metadata(in_root(path)).is_ok();
    let (status, why) = if error.kind() != ErrorKind::NotFound {
        (NOT_EXECUTABLE, error.to_string())
    } else if name.is_absolute() && is_there(&name) {
        let why = "it is there, but not what it is started by: a loader for shared libraries, or \
                   the interpreter of a script; link it statically, or give it a disk that has \
                   that with --root";
        (NOT_FOUND, why.to_owned())
    } else if plan.root.is_none() && !is_there(Path::new(BUSYBOX)) {
        let why = "command not found in the guest, which has none: the host has no static \
                   busybox in /bin (Debian: package busybox-static)";
        (NOT_FOUND, why.to_owned())
    } else {
        (NOT_FOUND, "command not found in the guest".to_owned())
    };
    (status, format!("{}: {why}", name.display()))
}

fn prepared(plan: &Plan, root: &Path) -> Command {
    let mut words = plan.command.iter();
    let mut command = Command::new(
        words
            .next()
            .map(|name| name.as_os_str())
            .unwrap_or_default(),
    );
    let path = format!("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{TOOLS}");
    command
        .args(words)
        .env_clear()
        .env("PATH", path)
        .env("HOME", "/root")
        .env("STRATA_OUT", OUT)
        .envs(plan.environment.iter().map(|(name, value)| (name, value)));
    if root != Path::new("/") {
        let root = root.to_owned();
        let enter = move || {
            std::os::unix::fs::chroot(&root)?;
            std::env::set_current_dir("/")
        };
        sys::before_exec(&mut command, enter);
    }
    command
}

type Started = io::Result<(Child, usize)>;

fn on_pipes(channel: &Arc<Channel>, plan: &Plan, root: &Path, ends: &Sender<End>) -> Started {
    let mut command = prepared(plan, root);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    sys::new_session(&mut command, None);
    let mut child = command.spawn()?;
    if let Some(output) = child.stdout.take() {
        pass_on(channel, frame::OUTPUT, output, ends);
    }
    if let Some(errors) = child.stderr.take() {
        pass_on(channel, frame::ERROR, errors, ends);
    }
    feed(channel, child.stdin.take(), None);
    Ok((child, 2))
}

fn on_terminal(
    channel: &Arc<Channel>,
    plan: &Plan,
    root: &Path,
    (rows, columns): (u16, u16),
    ends: &Sender<End>,
) -> Started {
    let open = |path: &str| OpenOptions::new().read(true).write(true).open(path);
    let master = open("/dev/ptmx")?;
    let number = sys::unlock_terminal(&master)?;
    sys::set_size(&master, rows, columns)?;
    let terminal = open(&format!("/dev/pts/{number}"))?;
    let mut command = prepared(plan, root);
    command
        .stdin(terminal.try_clone()?)
        .stdout(terminal.try_clone()?)
        .stderr(terminal.try_clone()?);
    sys::new_session(&mut command, Some(terminal.as_raw_fd()));
    let child = command.spawn()?;
    pass_on(channel, frame::OUTPUT, master.try_clone()?, ends);
    let size_of = master.try_clone()?;
    feed(channel, Some(master), Some(size_of));
    Ok((child, 1))
}

/// Sends what comes from `stream`, until it ends. (A pseudo-terminal ends with an error.)
fn pass_on(
    channel: &Arc<Channel>,
    kind: u8,
    mut stream: impl Read + Send + 'static,
    ends: &Sender<End>,
) {
    let (channel, ends) = (Arc::clone(channel), ends.clone());
    thread::spawn(move || {
        let mut bytes = [0; frame::MAX];
        while let Ok(count @ 1..) = stream.read(&mut bytes) {
            channel.send(kind, &bytes[..count]);
        }
        let _ = ends.send(End::Stream);
    });
}

/// Gives the command what comes as its input, and its terminal, if it has one, the size that it has
/// at the caller's.
fn feed(
    channel: &Arc<Channel>,
    mut input: Option<impl Write + Send + 'static>,
    terminal: Option<File>,
) {
    let channel = Arc::clone(channel);
    thread::spawn(move || {
        channel.receive(|kind, content| match kind {
            frame::INPUT => {
                // A command that reads no more is no mistake.
                if input
                    .as_mut()
                    .is_some_and(|input| input.write_all(content).is_err())
                {
                    input = None;
                }
                channel.send(frame::TAKEN, &[]);
            }
            frame::WINDOW => {
                if let (Some(terminal), &[r0, r1, c0, c1]) = (&terminal, content) {
                    let rows = u16::from_le_bytes([r0, r1]);
                    let columns = u16::from_le_bytes([c0, c1]);
                    // A size that cannot be set leaves the old one.
                    let _ = sys::set_size(terminal, rows, columns);
                }
                channel.send(frame::TAKEN, &[]);
            }
            frame::INPUT_END => input = None,
            _ => {}
        });
    });
}

#[cfg(test)]
mod tests;
