//! The ways for a guest to end that are no power-off, so that tests see what the machine makes of
//! them.

use crate::port;
use rustix::system::{RebootCommand, reboot};
use std::{fs, thread, time::Duration};

/// Where tests put the machine's exit port (`--exit-port`).
const EXIT_PORT: u16 = 0xf4;

/// Makes the kernel panic.
pub fn panic() -> Result<(), String> {
    let trigger = "/proc/sysrq-trigger";
    fs::write(trigger, "c").map_err(|e| format!("{trigger}: {e}"))?;
    Err("the kernel did not panic".to_owned())
}

/// Ends with `code` by the exit port.
pub fn exit(code: u8) -> Result<(), String> {
    port::write(EXIT_PORT, code).map_err(|e| format!("port {EXIT_PORT:#x}: {e}"))?;
    hang()
}

/// Resets the machine, in the way that the kernel's command line says (`reboot=`).
pub fn reset() -> Result<(), String> {
    Err(format!("reset: {:?}", reboot(RebootCommand::Restart)))
}

/// Does nothing any more.
pub fn hang() -> Result<(), String> {
    loop {
        thread::sleep(Duration::from_secs(1));
    }
}
