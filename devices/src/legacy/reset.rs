//! The ports that do nothing but reset the machine: 0xCF9 of the PCI bridge and 0x92.

use super::{Signal, read_bytes, write_bytes};
use crate::bus::BusDevice;

/// The reset control register of Intel's south bridges (PIIX3 datasheet, 2.5.1.3), port [`ResetControl::PORT`].
pub struct ResetControl {
    value: u8,
    reset: Signal,
}

impl ResetControl {
    /// Port of the register. It lies within PCI's CONFIG_ADDRESS, which answers only to accesses of four bytes.
    pub const PORT: u64 = 0xcf9;
    /// What to write for a hard reset.
    pub const HARD_RESET: u8 = Self::SYSTEM_RESET | Self::RESET_CPU;
    const SYSTEM_RESET: u8 = 1 << 1;
    const RESET_CPU: u8 = 1 << 2;

    /// A register that calls `reset` when the guest asks for one.
    pub fn new(reset: Signal) -> Self {
        Self { value: 0, reset }
    }
}

impl BusDevice for ResetControl {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        read_bytes(offset, data, |_| self.value);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        write_bytes(offset, data, |_, value| {
            // The reset starts when the bit goes from 0 to 1.
            let rises = value & !self.value & Self::RESET_CPU != 0;
            self.value = value & Self::HARD_RESET;
            if rises {
                self.value &= !Self::RESET_CPU;
                (self.reset)();
            }
        });
    }
}

/// System control port A of the PS/2, port [`SystemControl::PORT`]: fast reset and the A20 gate, which stays open.
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
