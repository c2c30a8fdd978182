//! Standard input and output: of a child process, which is this test program again.

use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use strata_vmm::monitor::{Action, Doors, Endpoint, Mailbox, Monitor, Protocol};

use crate::client::{Client, PROMPT};
use crate::fake::machine;

const REQUESTS: &str = "info status\nstop\ninfo status\nquit\n";
const REPLIES: &str = "strata 0.1.0 monitor - type 'help' for more information\r\n\
    (strata) VM status: running\r\n(strata) (strata) VM status: paused\r\n(strata) (strata) ";

/// Names the socket that the child is to serve as well.
const SOCKET: &str = "STRATA_TEST_MONITOR_SOCKET";

/// Not a test: what the child does. It ends when `quit` has been seen.
#[test]
#[ignore = "run by the tests below"]
fn child() {
    let mailbox = Mailbox::new().unwrap();
    let (state, machine) = machine(mailbox.notifier());
    let mut endpoints = vec![(Protocol::Hmp, Endpoint::Stdio)];
    if let Some(path) = std::env::var_os(SOCKET) {
        endpoints.push((Protocol::Hmp, Endpoint::Unix(path.into())));
    }
    let monitor = Monitor::start(Doors::open(&endpoints).unwrap(), machine, mailbox).unwrap();
    let seen = || state.lock().unwrap().seen.last().cloned();
    // Not for ever: a test that fails leaves its child behind.
    let patience = Instant::now() + Duration::from_secs(60);
    while seen() != Some(Action::Quit) && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(monitor);
}

fn command() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "stdio::child",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ]);
    command
}

#[test]
fn pipes() {
    let mut child = command()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("itself");
    child
        .stdin
        .take()
        .unwrap()
        .write_all(REQUESTS.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && text.contains(REPLIES), "{text}");
}

#[test]
fn a_pipe_that_nobody_reads_disturbs_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hmp");
    let mut child = command()
        .env(SOCKET, &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("itself");
    // Its output is more than a pipe holds, and more than the monitor lets pile up.
    let input = child.stdin.as_mut().unwrap();
    input.write_all("help\n".repeat(1000).as_bytes()).unwrap();
    while !path.exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut human = Client::hmp(&path);
    for _ in 0..100 {
        human.send("info status\n");
        assert_eq!(human.until(PROMPT), "VM status: running\r\n");
    }
    human.send("quit\n");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
}

#[test]
fn plain_files() {
    let directory = tempfile::tempdir().unwrap();
    let (input, output) = (directory.path().join("in"), directory.path().join("out"));
    std::fs::write(&input, REQUESTS).unwrap();
    let status = command()
        .stdin(File::open(&input).unwrap())
        .stdout(File::create(&output).unwrap())
        .status()
        .unwrap();
    let text = std::fs::read_to_string(&output).unwrap();
    assert!(status.success() && text.contains(REPLIES), "{text}");
}

#[test]
fn pipes_stay_blocking_for_those_who_share_them() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let shared = reader.try_clone().unwrap();
    let mut child = command()
        .stdin(reader)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    writer.write_all(REQUESTS.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    let flags = rustix::fs::fcntl_getfl(&shared).unwrap();
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
}
