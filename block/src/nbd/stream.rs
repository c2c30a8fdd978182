//! A connection: bytes in, bytes out, without ever blocking the thread.

use std::{
    io::{self, IoSlice},
    os::fd::OwnedFd,
    rc::Rc,
};

use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, sendmsg, shutdown, sockopt,
};

use crate::exec::{Executor, Watched};

/// Bytes of the buffer that small reads are served from.
const READ_AHEAD: usize = 8 << 10;

/// Pieces in one system call at most.
const MAX_PIECES: usize = 64;

/// The other side broke a rule after which the connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Violation(pub &'static str);

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Gone {
    /// The other side closed it.
    #[error("closed by the other side")]
    Closed,
    /// The host says so.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The other side broke the protocol.
    #[error(transparent)]
    Violation(#[from] Violation),
}

/// A connected stream socket.
pub(crate) struct Stream(Watched<OwnedFd>);

impl Stream {
    /// Takes over a connected socket.
    ///
    /// # Errors
    /// The host's error.
    pub fn new(exec: &Executor, socket: OwnedFd) -> io::Result<Rc<Self>> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        // Both fail on a Unix socket, which needs neither.
        let _ = sockopt::set_tcp_nodelay(&socket, true);
        let _ = sockopt::set_socket_keepalive(&socket, true);
        Ok(Rc::new(Self(Watched::new(exec, socket)?)))
    }

    /// Sends all of `pieces`, one after the other.
    ///
    /// # Errors
    /// The host's error; part of the bytes may have been sent.
    pub async fn send(&self, pieces: &[Vec<u8>]) -> io::Result<()> {
        let mut slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut rest = slices.as_mut_slice();
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let some = &rest[..rest.len().min(MAX_PIECES)];
            let sent = self.0.writable(|socket| send_some(socket, some)).await?;
            IoSlice::advance_slices(&mut rest, sent);
        }
        Ok(())
    }

    /// Sends `bytes` if that can be done at once, for what nobody answers.
    pub fn try_send(&self, bytes: &[u8]) {
        let _ = send_some(self.0.get(), &[IoSlice::new(bytes)]);
    }

    async fn receive(&self, into: &mut [u8]) -> Result<usize, Gone> {
        let received = self.0.readable(|socket| {
            let (n, _) = recv(socket, &mut *into, RecvFlags::empty())?;
            Ok(n)
        });
        match received.await? {
            0 => Err(Gone::Closed),
            n => Ok(n),
        }
    }

    /// The other side's bytes end here: what has arrived is still read.
    pub fn stop_receiving(&self) {
        self.shut_down(Shutdown::Read);
    }

    /// Ends the connection now: every wait on it ends.
    pub fn break_off(&self) {
        self.shut_down(Shutdown::Both);
    }

    fn shut_down(&self, how: Shutdown) {
        // Fails only if the connection is over, which is what is wanted.
        let _ = shutdown(self.0.get(), how);
    }
}

fn send_some(socket: &OwnedFd, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    let mut nothing = SendAncillaryBuffer::default();
    Ok(sendmsg(socket, pieces, &mut nothing, SendFlags::NOSIGNAL)?)
}

/// The receiving end of a [`Stream`], with a small buffer.
pub(crate) struct Reader {
    stream: Rc<Stream>,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Reader {
    /// Nothing has been read yet.
    pub fn new(stream: Rc<Stream>) -> Self {
        Self {
            stream,
            buffer: vec![0; READ_AHEAD].into(),
            start: 0,
            end: 0,
        }
    }

    /// Waits for as many bytes as `out` has.
    ///
    /// # Errors
    /// The connection ended before they came.
    pub async fn fill(&mut self, out: &mut [u8]) -> Result<(), Gone> {
        let mut done = 0;
        while done < out.len() {
            let want = &mut out[done..];
            if self.start < self.end {
                let n = want.len().min(self.end - self.start);
                want[..n].copy_from_slice(&self.buffer[self.start..self.start + n]);
                self.start += n;
                done += n;
            } else if want.len() >= self.buffer.len() {
                done += self.stream.receive(want).await?;
            } else {
                self.end = self.stream.receive(&mut self.buffer).await?;
                self.start = 0;
            }
        }
        Ok(())
    }

    /// Waits for `len` bytes. The host gives memory for them as they come.
    ///
    /// # Errors
    /// As [`Reader::fill`].
    pub async fn take(&mut self, len: usize) -> Result<Vec<u8>, Gone> {
        let mut bytes = vec![0; len];
        self.fill(&mut bytes).await?;
        Ok(bytes)
    }

    /// Passes over `len` bytes.
    ///
    /// # Errors
    /// As [`Reader::fill`].
    pub async fn skip(&mut self, mut len: u64) -> Result<(), Gone> {
        while len > 0 {
            if self.start == self.end {
                self.end = self.stream.receive(&mut self.buffer).await?;
                self.start = 0;
            }
            let n = usize::try_from(len)
                .unwrap_or(usize::MAX)
                .min(self.end - self.start);
            self.start += n;
            len -= n as u64;
        }
        Ok(())
    }
}
