//! Descriptors that were open when the program started.
#![allow(unsafe_code)] // Owning a descriptor by its number is what `fd:N` means.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Takes over a copy of descriptor `number`, which must be a stream socket.
///
/// # Errors
/// It is not open, or something else.
pub(super) fn take(number: i32) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the number is not negative. That it is open is what the next line finds out; this
    // runs before other threads are started, so nobody closes it in between.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    if rustix::net::sockopt::socket_type(borrowed)? != rustix::net::SocketType::STREAM {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    borrowed.try_clone_to_owned()
}
