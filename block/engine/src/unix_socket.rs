//! Unix sockets that listen at a path, for all who serve clients there.

use std::{
    io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with},
};

/// Why nobody can listen at a path.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The path is taken by something that is not a socket.
    #[error("a file of this name exists and is not a socket")]
    NotASocket,
    /// Somebody listens there.
    #[error("another program listens there")]
    InUse,
    /// The host's error.
    #[error(transparent)]
    Host(#[from] io::Error),
}

impl From<Errno> for BindError {
    fn from(error: Errno) -> Self {
        Self::Host(error.into())
    }
}

impl From<BindError> for io::Error {
    fn from(error: BindError) -> Self {
        match error {
            BindError::Host(source) => source,
            BindError::NotASocket => Self::new(io::ErrorKind::AlreadyExists, error),
            BindError::InUse => Self::new(io::ErrorKind::AddrInUse, error),
        }
    }
}

/// The file that stands for a listening socket; removed when dropped.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode, so that a later file of the same name is left alone.
    identity: (u64, u64),
}

/// Listens at `path`. A socket that a killed program has left there is replaced. Never blocks.
///
/// # Errors
/// [`BindError`]; what is at `path` then is left alone.
pub fn bind(path: &Path) -> Result<(UnixListener, SocketFile), BindError> {
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(BindError::NotASocket),
        Ok(_) => match try_connect(path) {
            Err(Errno::CONNREFUSED) => std::fs::remove_file(path)?,
            // With `AGAIN` somebody listens, and has as many waiting as the kernel lets wait.
            Ok(()) | Err(Errno::AGAIN) => return Err(BindError::InUse),
            Err(error) => return Err(error.into()),
        },
    }
    let listener = UnixListener::bind(path)?;
    let file = SocketFile {
        path: path.to_owned(),
        identity: identity(path)?,
    };
    Ok((listener, file))
}

/// Connects to the socket at `path`, without waiting to be accepted.
fn try_connect(path: &Path) -> Result<(), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)
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

#[cfg(test)]
mod tests;
