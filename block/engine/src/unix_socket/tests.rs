use std::{
    fs,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::*;

/// A listener that has as many clients waiting as it may have: the next one to connect would wait.
fn full(path: &Path) -> (UnixListener, Vec<UnixStream>) {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let waiting = UnixStream::connect(path).unwrap();
    assert_eq!(try_connect(path), Err(Errno::AGAIN));
    (socket.into(), vec![waiting])
}

#[test]
fn a_server_with_a_full_backlog_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let _kept = full(&path);
    assert!(matches!(bind(&path), Err(BindError::InUse)));
}

#[test]
fn what_a_killed_program_left_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    // The standard library leaves the file when it closes the socket.
    drop(UnixListener::bind(&path).unwrap());
    let (listener, file) = bind(&path).unwrap();
    UnixStream::connect(&path).unwrap();
    drop((listener, file));
    assert!(!path.exists());
}

#[test]
fn other_files_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "mine").unwrap();
    assert!(matches!(bind(&path), Err(BindError::NotASocket)));
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    let dangling = directory.path().join("link");
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    assert!(matches!(bind(&dangling), Err(BindError::NotASocket)));
}

#[test]
fn a_later_socket_of_the_same_name_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let (_first, file) = bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    // Keeps the inode from being used again at once.
    fs::write(directory.path().join("other"), "").unwrap();
    let _second = UnixListener::bind(&path).unwrap();
    drop(file);
    assert!(path.exists());
}
