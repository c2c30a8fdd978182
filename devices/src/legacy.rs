//! The parts of a PC that are older than PCI: the serial port, the keyboard controller, the clock,
//! the ports that reset the machine, those by which a guest says how it ends, and those that test
//! kernels want.
//!
//! All of them are 8 bits wide, so a wider access is taken apart into accesses to consecutive
//! ports, as the ISA bus does.

use std::sync::Arc;

pub mod debug_port;
pub mod exit_port;
pub mod i8042;
pub mod pvpanic;
pub mod reset;
pub mod rtc;
pub mod serial;
pub mod test_device;

/// Tells the machine that the guest asked for something (a reset, power off). Called on a vCPU
/// thread with a device locked: it must neither block nor touch the device.
pub type Signal = Arc<dyn Fn() + Send + Sync>;

/// Answers a read by one read of an 8-bit register per byte.
fn read_bytes(offset: u64, data: &mut [u8], mut register: impl FnMut(u64) -> u8) {
    for (port, byte) in (offset..).zip(data) {
        *byte = register(port);
    }
}

/// Carries out a write by one write of an 8-bit register per byte.
fn write_bytes(offset: u64, data: &[u8], mut register: impl FnMut(u64, u8)) {
    for (port, &byte) in (offset..).zip(data) {
        register(port, byte);
    }
}

#[cfg(test)]
pub(crate) mod doubles;
