//! Opening endpoints, and accepting clients at those that listen.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::SocketFlags;
use strata_block::unix_socket::{self, BindError, SocketFile};

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
    let (listener, file) = unix_socket::bind(path).map_err(|error| match error {
        BindError::NotASocket => OpenError::NotASocket(path.to_owned()),
        BindError::InUse => OpenError::InUse(path.to_owned()),
        BindError::Host(source) => failed(source),
    })?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(Listener {
        fd: listener.into(),
        _file: Some(file),
    })
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
