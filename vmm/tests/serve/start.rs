//! Starts that fail.

use std::os::{
    fd::OwnedFd,
    unix::net::{UnixListener, UnixStream},
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};

use crate::{
    DISK, EXPORT,
    process::{Serve, prepared},
};

const NOBODY: &str = "type=nbd,disk=boot,addr=unix:boot.sock";

/// [`Serve::refused`] looks at what is left behind.
#[test]
fn leave_no_sockets_behind() {
    let vhost_user = "type=vhost-user-blk,disk=root,addr=unix:vhost.sock";
    for first in [EXPORT, vhost_user] {
        let exports = ["--export", first, "--export", NOBODY];
        let monitors = ["--qmp", "unix:qmp", "--monitor", "unix:hmp"];
        let args = [&["--disk", DISK], &exports[..], &monitors].concat();
        let (code, error) = Serve::refused(&args);
        assert_eq!(code, Some(1));
        assert!(error.contains("Cannot find device='boot'"), "{error}");
    }
}

/// A server that does not take its clients: whoever connects next would wait for ever.
fn stuck(path: &str) -> (UnixListener, UnixStream) {
    let listener: OwnedFd = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&listener, &SocketAddrUnix::new(path).unwrap()).unwrap();
    listen(&listener, 0).unwrap();
    (listener.into(), UnixStream::connect(path).unwrap())
}

#[test]
fn do_not_wait_for_a_stuck_server() {
    for (socket, args) in [
        ("nbd.sock", ["--disk", DISK, "--export", EXPORT]),
        ("qmp", ["--disk", DISK, "--qmp", "unix:qmp"]),
    ] {
        let directory = prepared();
        let _stuck = stuck(directory.path().join(socket).to_str().unwrap());
        let (code, error) = Serve::refused_in(&directory, &args);
        assert_eq!(code, Some(1));
        assert!(error.contains("another program"), "{error}");
    }
}

/// There are no guests whose errors it would be about.
#[test]
fn refuse_what_is_about_guests() {
    for key in ["werror=stop", "rerror=ignore", "throttling.bps-total=5"] {
        let disk = format!("{DISK},{key}");
        let (code, error) = Serve::refused(&["--disk", &disk, "--export", EXPORT]);
        assert_eq!(code, Some(1));
        let name = key.split(['=', '.']).next().unwrap();
        let expected = format!("{name} is about a guest's device, and there is no guest");
        assert!(error.contains(&expected), "{error}");
    }
}
