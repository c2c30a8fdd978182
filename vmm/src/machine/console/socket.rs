//! A socket as the serial line: one client at a time; without one, output is dropped.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
};

use rustix::event::epoll;
use strata_block::unix_socket::{self, BindError, SocketFile};

use super::output::Patient;

type Client = Arc<Mutex<Option<Arc<UnixStream>>>>;

/// Input from the client that is connected. To an event loop it is one file: an epoll set with the
/// listening socket and the client in it.
pub struct SocketSource {
    ready: OwnedFd,
    listener: UnixListener,
    /// Kept for its `Drop`.
    _file: SocketFile,
    client: Client,
}

impl SocketSource {
    /// Listens at `path`. A socket that an earlier run has left there is replaced.
    ///
    /// # Errors
    /// The host's, and that the path is taken.
    pub fn listen(path: &Path) -> Result<Self, BindError> {
        let (listener, file) = unix_socket::bind(path)?;
        listener.set_nonblocking(true)?;
        let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        watch(&ready, listener.as_fd())?;
        Ok(Self {
            ready,
            listener,
            _file: file,
            client: Client::default(),
        })
    }

    /// The output half.
    pub fn output(&self, hurry: Arc<AtomicBool>) -> SocketOutput {
        SocketOutput {
            client: Arc::clone(&self.client),
            hurry,
        }
    }

    /// Takes the next client if there is none.
    fn accept(&self) -> io::Result<()> {
        let mut client = lock(&self.client);
        if client.is_some() {
            return Ok(());
        }
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(true)?;
        watch(&self.ready, stream.as_fd())?;
        // The next one waits in the kernel's queue until this one has gone.
        epoll::delete(&self.ready, &self.listener)?;
        *client = Some(Arc::new(stream));
        Ok(())
    }

    /// The client has gone.
    fn hang_up(&self) -> io::Result<()> {
        *lock(&self.client) = None;
        watch(&self.ready, self.listener.as_fd())
    }
}

fn watch(ready: &OwnedFd, file: BorrowedFd<'_>) -> io::Result<()> {
    let data = epoll::EventData::new_u64(0);
    Ok(epoll::add(ready, file, data, epoll::EventFlags::IN)?)
}

fn lock(client: &Client) -> MutexGuard<'_, Option<Arc<UnixStream>>> {
    client.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsRawFd for SocketSource {
    fn as_raw_fd(&self) -> RawFd {
        self.ready.as_raw_fd()
    }
}

impl Read for SocketSource {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(client) = lock(&self.client).clone() else {
            self.accept()?;
            return Err(io::ErrorKind::WouldBlock.into());
        };
        match client.as_ref().read(buf) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            // For the port, the line never ends.
            Ok(0) | Err(_) => {
                drop(client);
                self.hang_up()?;
                Err(io::ErrorKind::WouldBlock.into())
            }
            Ok(count) => Ok(count),
        }
    }
}

/// Output to the client that is connected.
pub struct SocketOutput {
    client: Client,
    hurry: Arc<AtomicBool>,
}

impl Write for SocketOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let client = lock(&self.client).clone();
        if let Some(client) = client {
            // A client that has gone is noticed, and let go, by the input half.
            let _ = Patient::new(client.as_ref(), Arc::clone(&self.hurry)).write_all(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
