//! Port 0x92, the old way of resetting the machine. (PCI's, 0xCF9, is in
//! [`crate::pci::ConfigPorts`].)

use super::{Signal, read_bytes, write_bytes};
use crate::bus::BusDevice;

/// System control port A of the PS/2, port [`SystemControl::PORT`]: fast reset, and the A20 gate,
/// which stays open.
pub struct SystemControl {
    reset: Signal,
}

impl SystemControl {
    /// Port of the register.
    pub const PORT: u64 = 0x92;
    const FAST_RESET: u8 = 1 << 0;
    const A20: u8 = 1 << 1;

    /// A register that calls `reset` when the guest asks for one.
    pub fn new(reset: Signal) -> Self {
        Self { reset }
    }
}

impl BusDevice for SystemControl {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        read_bytes(offset, data, |_| Self::A20);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        write_bytes(offset, data, |_, value| {
            if value & Self::FAST_RESET != 0 {
                (self.reset)();
            }
        });
    }
}

#[cfg(test)]
mod tests;
