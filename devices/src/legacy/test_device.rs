//! The device that kvm-unit-tests want, QEMU's `pc-testdev`: ports and memory that keep what is
//! written to them, interrupt lines that the guest drives by itself, and a port that takes a page
//! of its memory out of the tables by which the processor finds it.

use std::sync::Arc;

use strata_exec::mem::to_usize;

use crate::{bus::BusDevice, host::IrqLine};

/// Bytes that read as they were last written, whatever the widths of accesses.
pub struct Kept(Vec<u8>);

impl Kept {
    /// First port of those that keep.
    pub const PORTS: u64 = 0xe0;
    /// Number of ports.
    pub const PORTS_LEN: u64 = 4;
    /// First address of the memory that is reached like a device.
    pub const MEMORY: u64 = 0xff00_0000;
    /// Its bytes.
    pub const MEMORY_LEN: u64 = 0x1_0000;

    /// `len` bytes, all zero.
    pub fn new(len: u64) -> Self {
        Self(vec![0; to_usize(len)])
    }
}

impl BusDevice for Kept {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (byte, kept) in data.iter_mut().zip(self.0.iter().skip(to_usize(offset))) {
            *byte = *kept;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (kept, byte) in self.0.iter_mut().skip(to_usize(offset)).zip(data) {
            *kept = *byte;
        }
    }
}

/// One port for each interrupt line: what is written there is its level.
pub struct DrivenLines(Vec<Arc<dyn IrqLine>>);

impl DrivenLines {
    /// First port.
    pub const BASE: u64 = 0x2000;
    /// Number of ports.
    pub const LEN: u64 = 24;

    /// Ports for [`DrivenLines::LEN`] lines, which `line` makes.
    pub fn new(line: impl FnMut(u32) -> Arc<dyn IrqLine>) -> Self {
        Self((0..24).map(line).collect())
    }
}

impl BusDevice for DrivenLines {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(line) = self.0.get(to_usize(offset)) {
            line.set(data.iter().any(|&byte| byte != 0));
        }
    }
}

/// Takes the page that a guest physical address lies in out of the tables. The next access brings
/// it back.
pub type FlushPage = Box<dyn Fn(u64) + Send>;

/// The port to which a page's address is written, in four bytes.
pub struct FlushPort(pub FlushPage);

impl FlushPort {
    /// The port.
    pub const BASE: u64 = 0xe4;
    /// Number of ports.
    pub const LEN: u64 = 4;
}

impl BusDevice for FlushPort {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let (0, Ok(address)) = (offset, data.try_into()) {
            (self.0)(u32::from_le_bytes(address).into());
        }
    }
}

#[cfg(test)]
mod tests;
