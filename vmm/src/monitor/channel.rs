//! Bytes to and from one client, without ever waiting for it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, fstat};
use rustix::net::{RecvFlags, SendFlags};

/// The two directions of one client.
#[derive(Debug)]
pub(super) enum Channel {
    /// A connected socket.
    Socket(OwnedFd),
    /// Standard input and output.
    Stdio(Stream, Stream),
}

/// Standard input or standard output.
#[derive(Debug)]
pub(super) struct Stream {
    fd: OwnedFd,
    is_socket: bool,
}

impl Channel {
    /// Standard input and output of this process.
    pub(super) fn stdio() -> io::Result<Channel> {
        let input = Stream::open(std::io::stdin().as_fd(), "/proc/self/fd/0", OFlags::RDONLY)?;
        let output = Stream::open(std::io::stdout().as_fd(), "/proc/self/fd/1", OFlags::WRONLY)?;
        Ok(Channel::Stdio(input, output))
    }

    /// The descriptor to wait on for input.
    pub(super) fn input(&self) -> BorrowedFd<'_> {
        match self {
            Channel::Socket(fd) => fd.as_fd(),
            Channel::Stdio(input, _) => input.fd.as_fd(),
        }
    }

    /// The descriptor to wait on for room.
    pub(super) fn output(&self) -> BorrowedFd<'_> {
        match self {
            Channel::Socket(fd) => fd.as_fd(),
            Channel::Stdio(_, output) => output.fd.as_fd(),
        }
    }

    /// Bytes that have come; 0 at the end of the stream. To be called when input is ready.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Channel::Socket(fd) => receive(fd.as_fd(), buffer),
            Channel::Stdio(input, _) if input.is_socket => receive(input.fd.as_fd(), buffer),
            Channel::Stdio(input, _) => Ok(rustix::io::read(&input.fd, buffer)?),
        }
    }

    /// Sends as many bytes as there is room for.
    pub(super) fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Channel::Socket(fd) => send(fd.as_fd(), bytes),
            Channel::Stdio(_, output) if output.is_socket => send(output.fd.as_fd(), bytes),
            Channel::Stdio(_, output) => Ok(rustix::io::write(&output.fd, bytes)?),
        }
    }
}

impl Stream {
    /// A descriptor that can be made non-blocking: that flag belongs to the open file, and the
    /// one behind `fd` is shared with other processes (the shell, to begin with). So terminals and
    /// pipes are opened anew. Plain files do not block; for sockets each call says so.
    fn open(fd: BorrowedFd<'_>, path: &str, access: OFlags) -> io::Result<Stream> {
        let kind = FileType::from_raw_mode(fstat(fd)?.st_mode);
        let reopened = match kind {
            FileType::Fifo | FileType::CharacterDevice => {
                let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                // Refused where the terminal belongs to another user (after `su`).
                rustix::fs::open(path, flags, Mode::empty()).ok()
            }
            _ => None,
        };
        let fd = match reopened {
            Some(fd) => fd,
            None => fd.try_clone_to_owned()?,
        };
        Ok(Stream {
            fd,
            is_socket: kind == FileType::Socket,
        })
    }
}

fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let (_, length) = rustix::net::recv(fd, buffer, RecvFlags::DONTWAIT)?;
    Ok(length)
}

fn send(fd: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(
        fd,
        bytes,
        SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
    )?)
}
