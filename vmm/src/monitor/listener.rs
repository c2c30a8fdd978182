//! Opening endpoints, and accepting clients at those that listen.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::channel::Channel;
use super::endpoint::Endpoint;
use super::inherited;

/// What an endpoint has become.
#[derive(Debug)]
pub(super) enum Opened {
    /// Clients are to come.
    Listener(Listener),
    /// The one client is there.
    Channel(Channel),
}

/// Why an endpoint cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Standard input or output is closed.
    #[error("stdio cannot be used for the monitor: {0}")]
    Stdio(#[source] io::Error),
    /// The path is taken by something that is not a socket.
    #[error("{} exists and is not a socket: remove it, or give another path", .0.display())]
    NotASocket(PathBuf),
    /// Somebody listens there.
    #[error("{} is in use by another program: stop that, or give another path", .0.display())]
    InUse(PathBuf),
    /// The socket cannot be made.
    #[error("cannot listen at {}: {source}", path.display())]
    Bind {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `fd:N` does not name a stream socket that was passed in.
    #[error("fd:{0} is not an open stream socket: pass one that listens or is connected")]
    BadFd(i32),
}

/// A socket that listens; its file is removed in the end.
#[derive(Debug)]
pub(super) struct Listener {
    fd: OwnedFd,
    /// Kept for its `Drop`.
    _file: Option<SocketFile>,
}

/// The file that stands for a listening socket.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode, so that a later file of the same name is left alone.
    identity: (u64, u64),
}

/// Opens `endpoint`.
pub(super) fn open(endpoint: &Endpoint) -> Result<Opened, OpenError> {
    match endpoint {
        Endpoint::Stdio => Channel::stdio()
            .map(Opened::Channel)
            .map_err(OpenError::Stdio),
        Endpoint::Unix(path) => bind(path).map(Opened::Listener),
        Endpoint::Fd(number) => {
            let bad = |_| OpenError::BadFd(*number);
            let fd = inherited::take(*number).map_err(bad)?;
            if rustix::net::sockopt::socket_acceptconn(&fd).map_err(|error| bad(error.into()))? {
                rustix::io::ioctl_fionbio(&fd, true).map_err(|error| bad(error.into()))?;
                Ok(Opened::Listener(Listener { fd, _file: None }))
            } else {
                Ok(Opened::Channel(Channel::Socket(fd)))
            }
        }
    }
}

fn bind(path: &Path) -> Result<Listener, OpenError> {
    let failed = |source| OpenError::Bind {
        path: path.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(OpenError::NotASocket(path.to_owned()));
        }
        Ok(_) => match try_connect(path) {
            // Left behind by a program that was killed.
            Err(Errno::CONNREFUSED) => std::fs::remove_file(path).map_err(failed)?,
            // With `AGAIN` somebody listens, and has many waiting.
            Ok(()) | Err(Errno::AGAIN) => return Err(OpenError::InUse(path.to_owned())),
            Err(error) => return Err(failed(error.into())),
        },
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
    let identity = (metadata.dev(), metadata.ino());
    let file = Some(SocketFile {
        path: path.to_owned(),
        identity,
    });
    Ok(Listener {
        fd: listener.into(),
        _file: file,
    })
}

/// Connects to the socket at `path`, without waiting to be accepted.
fn try_connect(path: &Path) -> Result<(), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
}

impl Listener {
    /// The next client, if one is waiting.
    pub(super) fn accept(&self) -> io::Result<Option<Channel>> {
        match rustix::net::accept_with(&self.fd, SocketFlags::CLOEXEC) {
            Ok(fd) => Ok(Some(Channel::Socket(fd))),
            // The client has left before its turn came.
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours {
            // Left behind, it would be replaced at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
