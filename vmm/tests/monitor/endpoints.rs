//! Where the monitor can be reached, and where it refuses to be put.

use std::os::fd::{AsRawFd, IntoRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use strata_vmm::monitor::{Doors, Endpoint, Mailbox, Monitor, Protocol, StartError};

use crate::client::Client;
use crate::fake::machine;

const STATUS: &str = r#"{"execute": "query-status"}"#;
const RUNNING: &str = r#"{"return": {"status": "running", "running": true}}"#;

fn start(endpoints: &[Endpoint]) -> Result<Monitor, StartError> {
    let mailbox = Mailbox::new().unwrap();
    let (_, machine) = machine(mailbox.notifier());
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|at| (Protocol::Qmp, at.clone()))
        .collect();
    Monitor::start(Doors::open(&endpoints)?, machine, mailbox)
}

fn at(path: &Path) -> Endpoint {
    Endpoint::Unix(path.to_owned())
}

fn refusal(endpoints: &[Endpoint]) -> String {
    start(endpoints)
        .expect_err("it must be refused")
        .to_string()
}

#[test]
fn a_socket_that_nobody_listens_on_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "as after SIGKILL");
    let monitor = start(&[at(&path)]).unwrap();
    assert_eq!(Client::qmp(&path).ask(STATUS), RUNNING);
    drop(monitor);
    assert!(!path.exists());
}

#[test]
fn a_socket_in_use_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    let first = start(&[at(&path)]).unwrap();
    let refused = refusal(&[at(&path)]);
    assert!(
        refused.contains("is in use by another program"),
        "{refused}"
    );
    assert_eq!(Client::qmp(&path).ask(STATUS), RUNNING);
    drop(first);
}

#[test]
fn a_file_is_never_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.img");
    std::fs::write(&path, "precious").unwrap();
    let refused = refusal(&[at(&path)]);
    assert!(refused.contains("exists and is not a socket"), "{refused}");
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let refused = refusal(&[at(&link)]);
    assert!(refused.contains("exists and is not a socket"), "{refused}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_path_that_cannot_be_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let refused = refusal(&[at(&directory.path().join("nosuch/qmp"))]);
    assert!(
        refused.contains("nosuch/qmp: No such file or directory"),
        "{refused}"
    );
    let refused = refusal(&[at(&directory.path().join("x".repeat(200)))]);
    assert!(refused.contains("cannot listen at"), "{refused}");
}

#[test]
fn what_another_has_put_there_is_not_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    let monitor = start(&[at(&path)]).unwrap();
    std::fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(monitor);
    assert!(path.exists());
}

#[test]
fn a_failure_leaves_no_socket_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    refusal(&[at(&path), at(&directory.path().join("nosuch/qmp"))]);
    assert!(!path.exists());
}

#[test]
fn the_same_endpoint_twice_is_refused() {
    assert_eq!(
        refusal(&[Endpoint::Stdio, Endpoint::Stdio]),
        "stdio is given twice: one monitor can be there"
    );
}

#[test]
fn an_inherited_socket_that_listens() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    let listener = UnixListener::bind(&path).unwrap();
    let monitor = start(&[Endpoint::Fd(listener.into_raw_fd())]).unwrap();
    assert_eq!(Client::qmp(&path).ask(STATUS), RUNNING);
    assert_eq!(Client::qmp(&path).ask(STATUS), RUNNING);
    drop(monitor);
    assert!(path.exists(), "whoever made it removes it");
}

#[test]
fn an_inherited_connection() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pair");
    let listener = UnixListener::bind(&path).unwrap();
    let mut client = Client::connect(&path);
    let (ours, _) = listener.accept().unwrap();
    let monitor = start(&[Endpoint::Fd(ours.into_raw_fd())]).unwrap();
    client.line();
    client.send(r#"{"execute": "qmp_capabilities"}"#);
    client.line();
    assert_eq!(client.ask(STATUS), RUNNING);
    drop(monitor);
    assert_eq!(client.rest(), "");
}

#[test]
fn a_descriptor_that_is_no_stream_socket_is_refused() {
    let file = tempfile::tempfile().unwrap();
    let (datagram, _other) = std::os::unix::net::UnixDatagram::pair().unwrap();
    for number in [file.as_raw_fd(), datagram.as_raw_fd(), 100_000] {
        let refused = refusal(&[Endpoint::Fd(number)]);
        assert!(
            refused.contains("is not an open stream socket"),
            "{refused}"
        );
    }
    assert!(file.metadata().is_ok(), "it has been left open");
}

#[test]
fn a_socket_whose_queue_is_full_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("qmp");
    let listener = UnixListener::bind(&path).unwrap();
    // A program that hangs: it does not accept, and connecting to it would wait for ever.
    rustix::net::listen(&listener, 0).unwrap();
    let _waiting = UnixStream::connect(&path).unwrap();
    let refused = refusal(&[at(&path)]);
    assert!(
        refused.contains("is in use by another program"),
        "{refused}"
    );
}

#[test]
fn endpoints_are_written_as_people_write_them() {
    for text in ["stdio", "unix:/run/qmp", "unix:relative", "fd:3"] {
        assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
    }
    for text in [
        "", "unix", "unix:", "fd:", "fd:-1", "fd:2", "fd:x", "tcp:1", "STDIO",
    ] {
        let error = text.parse::<Endpoint>().unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
    }
}
