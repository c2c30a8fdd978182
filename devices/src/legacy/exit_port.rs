//! A port that ends the run: what the guest writes there is the code that it ends with.
//!
//! Needs no driver: a test kernel writes to it with one `out`, a Linux user through `/dev/port`.
//! QEMU has the same under the name `isa-debug-exit`.

use std::sync::Arc;

use crate::bus::BusDevice;

/// Called with the code, on a vCPU thread with the device locked: it must neither block nor touch
/// the device.
pub type ExitSignal = Arc<dyn Fn(u32) + Send + Sync>;

/// The device: [`ExitPort::LEN`] ports, of which the first takes codes of 1, 2 or 4 bytes.
pub struct ExitPort {
    signal: ExitSignal,
}

impl ExitPort {
    /// Number of ports, so that a code of 4 bytes fits.
    pub const LEN: u64 = 4;

    /// A port that calls `signal` with each code.
    pub fn new(signal: ExitSignal) -> Self {
        Self { signal }
    }
}

impl BusDevice for ExitPort {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset != 0 {
            return;
        }
        let mut code = [0; 4];
        for (byte, &value) in code.iter_mut().zip(data) {
            *byte = value;
        }
        (self.signal)(u32::from_le_bytes(code));
    }
}

#[cfg(test)]
mod tests;
