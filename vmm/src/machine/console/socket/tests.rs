use std::path::PathBuf;

use super::*;

/// A source on a socket in a directory of its own.
fn source() -> (tempfile::TempDir, PathBuf, SocketSource) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("serial");
    let source = SocketSource::listen(&path).unwrap();
    (dir, path, source)
}

/// Reads as an event loop would: when there is something to see.
fn read(source: &mut SocketSource) -> Vec<u8> {
    let mut buf = [0; 64];
    loop {
        let mut events = Vec::with_capacity(4);
        epoll::wait(
            &source.ready,
            rustix::buffer::spare_capacity(&mut events),
            None,
        )
        .unwrap();
        match source.read(&mut buf) {
            Ok(count) => return buf[..count].to_vec(),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }
}

#[test]
fn bytes_go_both_ways_and_a_second_client_follows_the_first() {
    let (_dir, path, mut source) = source();
    let mut output = source.output(Arc::default());
    output.write_all(b"nobody listens").unwrap();
    for _ in 0..2 {
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"to guest").unwrap();
        assert_eq!(read(&mut source), b"to guest");
        output.write_all(b"to host").unwrap();
        let mut buf = [0; 7];
        client.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"to host");
    }
}

#[test]
fn a_client_that_does_not_read_cannot_hold_up_a_hurry() {
    let (_dir, path, mut source) = source();
    let hurry = Arc::new(AtomicBool::new(true));
    let mut output = source.output(hurry);
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"x").unwrap();
    read(&mut source);
    for _ in 0..64 {
        output.write_all(&[0; 65536]).unwrap();
    }
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("serial");
    drop(UnixListener::bind(&path).unwrap());
    let live = SocketSource::listen(&path).unwrap();
    assert!(SocketSource::listen(&path).is_err());
    drop(live);
    assert!(!path.exists());
}
