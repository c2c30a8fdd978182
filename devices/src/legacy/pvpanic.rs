//! The paravirtual panic device: one port through which a guest's kernel says that it has panicked.
//!
//! QEMU's `docs/specs/pvpanic`: a read says which events the device knows, a write reports some of
//! them. Linux finds it in the ACPI tables under the name [`PvPanic::ACPI_ID`] (driver
//! `pvpanic-mmio`).

use std::sync::Arc;

use bitflags::bitflags;

use super::{read_bytes, write_bytes};
use crate::bus::BusDevice;

bitflags! {
    /// What a guest can report.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct PanicEvents: u8 {
        /// The kernel has panicked, and goes no further by itself.
        const PANICKED = 1 << 0;
        /// The kernel has panicked, and another one that it keeps for this will save what it knows.
        const CRASH_LOADED = 1 << 1;
    }
}

/// Called with what the guest reports, on a vCPU thread with the device locked: it must neither
/// block nor touch the device.
pub type PanicSignal = Arc<dyn Fn(PanicEvents) + Send + Sync>;

/// The device at port [`PvPanic::PORT`].
pub struct PvPanic {
    signal: PanicSignal,
}

impl PvPanic {
    /// The port, where QEMU has it.
    pub const PORT: u64 = 0x505;
    /// Number of ports.
    pub const LEN: u64 = 1;
    /// The `_HID` in the ACPI tables.
    pub(crate) const ACPI_ID: &str = "QEMU0001";

    /// A device that calls `signal` for each report.
    pub fn new(signal: PanicSignal) -> Self {
        Self { signal }
    }
}

impl BusDevice for PvPanic {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        read_bytes(offset, data, |_| PanicEvents::all().bits());
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        write_bytes(offset, data, |_, value| {
            // Bits without a meaning here come from guests that know of newer devices.
            let events = PanicEvents::from_bits_truncate(value);
            if !events.is_empty() {
                (self.signal)(events);
            }
        });
    }
}

#[cfg(test)]
mod tests;
