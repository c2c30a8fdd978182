//! Writing to an I/O port, for the machine's exit port.
#![allow(unsafe_code)] // One system call that the wrappers do not have, and one instruction.

use std::{arch::asm, io};

/// Writes `value` to `port`.
///
/// # Errors
/// The kernel does not let us.
pub fn write(port: u16, value: u8) -> io::Result<()> {
    // SAFETY: gives this thread access to one port; no memory is concerned.
    let result = unsafe { libc::ioperm(port.into(), 1, 1) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the instruction touches no memory of ours, and the port is allowed since the call
    // above.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) };
    Ok(())
}
