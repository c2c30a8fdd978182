//! Opening the socket that a server listens at.

use std::{
    io,
    net::TcpListener,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, MetadataExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use super::Address;

/// A socket that listens.
pub struct Listener {
    pub socket: OwnedFd,
    /// Where it listens; the port that the host chose instead of 0.
    pub address: Address,
    /// Its name in the file system, if it has one.
    pub file: Option<SocketFile>,
}

/// The file that stands for a listening socket; removed when dropped.
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode, so that a later file of the same name is left alone.
    identity: (u64, u64),
}

/// Opens a listening socket. May block: on the resolver.
///
/// # Errors
/// The host's error.
pub fn listen(address: Address) -> io::Result<Listener> {
    match &address {
        Address::Unix(path) => {
            let socket = bind(path)?;
            let identity = identity(path)?;
            let path = path.clone();
            Ok(Listener {
                socket: socket.into(),
                address,
                file: Some(SocketFile { path, identity }),
            })
        }
        Address::Tcp { host, port } => {
            let socket = TcpListener::bind((host.as_str(), *port))?;
            let (host, port) = (host.clone(), socket.local_addr()?.port());
            Ok(Listener {
                socket: socket.into(),
                address: Address::Tcp { host, port },
                file: None,
            })
        }
    }
}

/// A socket that a killed server left behind is replaced; one that answers is not.
fn bind(path: &Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if !path.symlink_metadata()?.file_type().is_socket() {
                let why = "a file of this name exists and is not a socket";
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
            }
            if UnixStream::connect(path).is_ok() {
                let why = "another program listens there";
                return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        result => result,
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    path.symlink_metadata().map(|meta| (meta.dev(), meta.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            // What is left behind then is replaced by the next server.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
