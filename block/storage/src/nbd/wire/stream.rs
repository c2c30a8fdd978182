//! A connection: bytes in, bytes out, without ever blocking the thread.

use std::{
    cell::{Cell, RefCell},
    io::{self, ErrorKind, IoSlice, Read, Write},
    os::fd::OwnedFd,
    rc::Rc,
    time::{Duration, Instant},
};

use rustix::net::{
    RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, sendmsg, shutdown, sockopt,
};

use rustls::Connection;
use strata_exec::{Executor, Watched};

use super::tls::Socket;

/// Bytes of the buffer that small reads are served from.
const READ_AHEAD: usize = 8 << 10;

/// Pieces in one system call at most.
const MAX_PIECES: usize = 64;

/// The other side broke a rule after which the connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(pub &'static str);

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
pub enum Gone {
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

/// A connected stream socket, in the clear or under TLS.
pub struct Stream {
    socket: Watched<OwnedFd>,
    /// Once it has been started. What is encrypted or decrypted here is so without an await.
    tls: RefCell<Option<Connection>>,
    /// Since when the other side has taken nothing of what is being sent.
    sending: Cell<Option<Instant>>,
    /// Since when the other side has sent nothing of what it owes.
    receiving: Cell<Option<Instant>>,
}

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
        Ok(Rc::new(Self {
            socket: Watched::new(exec, socket)?,
            tls: RefCell::default(),
            sending: Cell::default(),
            receiving: Cell::default(),
        }))
    }

    /// Goes over to TLS: `connection` shakes hands, and all bytes from here on are its. Nothing may
    /// have been read ahead, and nobody be sending or receiving.
    ///
    /// # Errors
    /// The handshake failed, or the connection ended.
    pub async fn start_tls(&self, connection: Connection) -> Result<(), Gone> {
        *self.tls.borrow_mut() = Some(connection);
        loop {
            self.send_encrypted().await?;
            if !self.with_tls(|tls| tls.is_handshaking()) {
                return Ok(());
            }
            self.receive_encrypted().await?;
        }
    }

    /// Whether TLS protects the bytes.
    pub fn is_encrypted(&self) -> bool {
        self.tls.borrow().is_some()
    }

    /// # Panics
    /// TLS has not been started.
    fn with_tls<T>(&self, act: impl FnOnce(&mut Connection) -> T) -> T {
        let mut tls = self.tls.borrow_mut();
        act(tls.as_mut().expect("TLS has been started"))
    }

    /// Sends what rustls wants to have sent.
    async fn send_encrypted(&self) -> io::Result<()> {
        while self.with_tls(|tls| tls.wants_write()) {
            let send = |socket: &OwnedFd| self.with_tls(|tls| tls.write_tls(&mut Socket(socket)));
            self.sending.set(Some(Instant::now()));
            let sent = self.socket.writable(send).await;
            self.sending.set(None);
            sent?;
        }
        Ok(())
    }

    /// Waits for bytes, and decrypts them. Does not wait until what is to be sent has been: the
    /// other side may want to have all that it sends taken before it reads its replies.
    async fn receive_encrypted(&self) -> Result<(), Gone> {
        let receive = |socket: &OwnedFd| self.with_tls(|tls| tls.read_tls(&mut Socket(socket)));
        if self.socket.readable(receive).await? == 0 {
            return Err(Gone::Closed);
        }
        let decrypted = self.with_tls(|tls| {
            let decrypted = tls.process_new_packets().map(|_| ());
            // Keys may have to be updated, or the other side learn what it did wrong. What does
            // not go now goes with whatever is sent next.
            if tls.wants_write() {
                let _ = tls.write_tls(&mut Socket(self.socket.get()));
            }
            decrypted
        });
        decrypted.map_err(|error| io::Error::new(ErrorKind::InvalidData, error).into())
    }

    /// For how long the other side has neither taken what is sent to it nor sent what it owes.
    pub fn still_for(&self) -> Duration {
        let since = |moment: Instant| moment.elapsed();
        let sending = self.sending.get().map_or(Duration::ZERO, since);
        sending.max(self.receiving.get().map_or(Duration::ZERO, since))
    }

    /// The other side owes bytes from now on, or none any more.
    pub fn expect_bytes(&self, expected: bool) {
        self.receiving.set(expected.then(Instant::now));
    }

    /// Sends all of `pieces`, one after the other.
    ///
    /// # Errors
    /// The host's error; part of the bytes may have been sent.
    pub async fn send(&self, pieces: &[Vec<u8>]) -> io::Result<()> {
        if self.is_encrypted() {
            return self.encrypt(pieces).await;
        }
        let mut slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut rest = slices.as_mut_slice();
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let some = &rest[..rest.len().min(MAX_PIECES)];
            let send = |socket: &OwnedFd| send_some(socket, some);
            self.sending.set(Some(Instant::now()));
            let sent = self.socket.writable(send).await;
            self.sending.set(None);
            IoSlice::advance_slices(&mut rest, sent?);
        }
        Ok(())
    }

    async fn encrypt(&self, pieces: &[Vec<u8>]) -> io::Result<()> {
        for piece in pieces {
            let mut rest = piece.as_slice();
            while !rest.is_empty() {
                // As much as its buffer has room for.
                let taken = self.with_tls(|tls| tls.writer().write(rest))?;
                rest = &rest[taken..];
                self.send_encrypted().await?;
            }
        }
        Ok(())
    }

    /// Sends `bytes` if that can be done at once, for what nobody answers.
    pub(crate) fn try_send(&self, bytes: &[u8]) {
        if !self.is_encrypted() {
            let _ = send_some(self.socket.get(), &[IoSlice::new(bytes)]);
            return;
        }
        self.with_tls(|tls| {
            let _ = tls.writer().write(bytes);
            let _ = tls.write_tls(&mut Socket(self.socket.get()));
        });
    }

    async fn receive(&self, into: &mut [u8]) -> Result<usize, Gone> {
        self.expect_bytes(self.receiving.get().is_some());
        while self.is_encrypted() {
            match self.with_tls(|tls| tls.reader().read(into)) {
                Ok(0) => return Err(Gone::Closed),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.receive_encrypted().await?;
                }
                result => return Ok(result?),
            }
        }
        let received = self.socket.readable(|socket| {
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
        let _ = shutdown(self.socket.get(), how);
    }
}

impl Drop for Stream {
    /// Says that the end is meant, so that the other side can distinguish it from one that was
    /// forced.
    fn drop(&mut self) {
        if let Some(tls) = self.tls.get_mut() {
            tls.send_close_notify();
            let _ = tls.write_tls(&mut Socket(self.socket.get()));
        }
    }
}

fn send_some(socket: &OwnedFd, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    let mut nothing = SendAncillaryBuffer::default();
    Ok(sendmsg(socket, pieces, &mut nothing, SendFlags::NOSIGNAL)?)
}

/// The receiving end of a [`Stream`], with a small buffer.
pub struct Reader {
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

    /// Whether nothing has been read ahead.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
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
