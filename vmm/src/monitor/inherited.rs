//! Descriptors that were open when the program started.
#![allow(unsafe_code)] // Owning a descriptor by its number is what `fd:N` means.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{SocketType, sockopt};

/// Takes over descriptor `number`, which must be a stream socket that this program has not made
/// itself: to be called before it makes any, once for each number, and before it starts threads.
///
/// # Errors
/// It is not open, or something else. It is left alone then.
pub(super) fn take(number: i32) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the number is not -1. Whether it is open is what the calls below find out; without
    // other threads nobody opens or closes it in between.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if sockopt::socket_type(borrowed)? != SocketType::STREAM {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    fcntl_setfd(borrowed, FdFlags::CLOEXEC)?;
    // SAFETY: it is open, as the calls above have shown, and a stream socket, of which this
    // program has made none: it was passed in, so nothing else here owns it. The caller upholds
    // this by its place in the start-up, and by refusing a number that is given twice.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
