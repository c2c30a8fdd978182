//! The debug port of emulators (QEMU's `isa-debugcon`, Bochs' port 0xE9 hack at another number):
//! firmware writes what it does there, character by character.

use super::{read_bytes, write_bytes};
use crate::bus::BusDevice;

/// Called with every line that was written, without its end, on a vCPU thread.
pub type DebugSink = Box<dyn FnMut(&str) + Send>;

/// The device at port [`DebugPort::PORT`].
pub struct DebugPort {
    line: Vec<u8>,
    sink: DebugSink,
}

impl DebugPort {
    /// The port, where firmware for QEMU expects it.
    pub const PORT: u64 = 0x402;
    /// Number of ports.
    pub const LEN: u64 = 1;
    /// What a read says: the port is there.
    const PRESENT: u8 = 0xe9;
    /// Longer lines are passed on in parts.
    const MAX_LINE: usize = 512;

    /// A port whose lines go to `sink`.
    pub fn new(sink: DebugSink) -> Self {
        Self {
            line: Vec::new(),
            sink,
        }
    }

    fn write_byte(&mut self, byte: u8) {
        if byte != b'\n' {
            self.line.push(byte);
        }
        if byte == b'\n' || self.line.len() >= Self::MAX_LINE {
            (self.sink)(String::from_utf8_lossy(&self.line).trim_end());
            self.line.clear();
        }
    }
}

impl BusDevice for DebugPort {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        read_bytes(offset, data, |_| Self::PRESENT);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        write_bytes(offset, data, |_, byte| self.write_byte(byte));
    }
}

#[cfg(test)]
mod tests;
