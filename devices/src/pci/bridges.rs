//! The two bridges of a 440FX PC: the host bridge and the PIIX3 ISA bridge.
//!
//! A guest needs them to find a PC it knows. Of their registers those do something that route
//! interrupts, and those by which firmware keeps others from writing to it below 1 MiB. Firmware
//! knows by the subsystem ids that it runs on QEMU's.

use std::sync::{Arc, Mutex};

use super::{
    ConfigSpace, Identity, PciDevice, SharedPciDevice, Slot,
    intx::{self, Pirqs},
};

/// Where the host bridge is.
pub const HOST_BRIDGE: Slot = Slot::new(0, 0);
/// Where the ISA bridge is. The IDE function of the same chip is at [`IDE_FUNCTION`].
pub const ISA_BRIDGE: Slot = Slot::new(1, 0);
/// Where the PIIX3 IDE function belongs: the ISA bridge says that its device has several functions.
pub const IDE_FUNCTION: Slot = Slot::new(1, 1);

const INTEL: u16 = 0x8086;
/// Subsystem ids of all that is on QEMU's board.
const QEMU: (u16, u16) = (0x1af4, 0x1100);
/// The seven programmable attribute map registers: for each segment of the memory from 0xC0000 to 1
/// MiB whether reads and writes reach it (82441FX data sheet, 3.2.18). Reads always do here: what
/// firmware would find instead is itself, and it lies there from the start.
const PAM: usize = 0x59;
const PAM_WRITABLE: [u8; 7] = [0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33];
/// Writes reach the segment; the same for the one that a register's upper half is for.
const WRITE_ENABLE: u8 = 1 << 1;
/// PIIX3's four PIRQ route control registers (see [`Pirqs::route`]), as a BIOS leaves them.
const PIRQ_ROUTE: usize = 0x60;
const PIRQ_WRITABLE: [u8; 4] = [0x8f; 4];

/// A part of the memory below 1 MiB that can be written to or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// The segments, in the order of the halves of the registers that they have.
pub const SEGMENTS: [Segment; 13] = {
    let mut segments = [Segment {
        start: 0xf_0000,
        len: 0x1_0000,
    }; 13];
    let mut at = 1;
    while at < segments.len() {
        segments[at] = Segment {
            start: 0xc_0000 + (at as u64 - 1) * 0x4000,
            len: 0x4000,
        };
        at += 1;
    }
    segments
};

/// Lets the guest write to a segment, or no longer. After power-on it cannot.
pub type Protect = Box<dyn Fn(Segment, bool) + Send>;

struct HostBridge {
    config: ConfigSpace,
    /// Whether each segment can be written to.
    writable: [bool; SEGMENTS.len()],
    protect: Protect,
}

impl HostBridge {
    /// Has the segments be as the registers say.
    fn update(&mut self) {
        for (at, segment) in SEGMENTS.into_iter().enumerate() {
            // The lower half of the first register is for none.
            let half = at + 1;
            let [register, _] = self.config.u16_at(PAM + half / 2).to_le_bytes();
            let writable = register >> (4 * (half % 2)) & WRITE_ENABLE != 0;
            if self.writable[at] != writable {
                self.writable[at] = writable;
                (self.protect)(segment, writable);
            }
        }
    }
}

impl PciDevice for HostBridge {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
        self.update();
    }

    fn read_bar(&mut self, _bar: usize, _offset: u64, _data: &mut [u8]) {}

    fn write_bar(&mut self, _bar: usize, _offset: u64, _data: &[u8]) {}

    fn reset(&mut self) {
        self.config.reset();
        self.update();
    }

    /// Firmware goes on in the memory that it has protected, and finds it so.
    fn wake_up(&mut self) {
        let mut pam = [0; PAM_WRITABLE.len()];
        self.config.read(PAM, &mut pam);
        self.config.reset();
        self.config.write(PAM, &pam);
    }
}

/// The 440FX host bridge (82441FX), for [`HOST_BRIDGE`].
pub fn host_bridge(protect: Protect) -> SharedPciDevice {
    let mut config = ConfigSpace::new(Identity {
        vendor: INTEL,
        device: 0x1237,
        class: 0x06_00_00,
        revision: 2,
        subsystem: QEMU,
        multi_function: false,
    });
    config.allow(PAM, &PAM_WRITABLE);
    Arc::new(Mutex::new(HostBridge {
        config,
        writable: [false; SEGMENTS.len()],
        protect,
    }))
}

struct IsaBridge {
    config: ConfigSpace,
    pirqs: Arc<Pirqs>,
}

impl IsaBridge {
    fn route(&self) {
        for number in 0..PIRQ_WRITABLE.len() {
            let [register, _] = self.config.u16_at(PIRQ_ROUTE + number).to_le_bytes();
            self.pirqs.route(number, register);
        }
    }
}

impl PciDevice for IsaBridge {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
        self.route();
    }

    fn read_bar(&mut self, _bar: usize, _offset: u64, _data: &mut [u8]) {}

    fn write_bar(&mut self, _bar: usize, _offset: u64, _data: &[u8]) {}

    fn reset(&mut self) {
        self.config.reset();
        self.route();
    }
}

/// The PIIX3 ISA bridge (82371SB function 0), for [`ISA_BRIDGE`], which routes `pirqs`.
pub fn isa_bridge(pirqs: Arc<Pirqs>) -> SharedPciDevice {
    let mut config = ConfigSpace::new(Identity {
        vendor: INTEL,
        device: 0x7000,
        class: 0x06_01_00,
        revision: 0,
        subsystem: QEMU,
        multi_function: true,
    });
    config.put(PIRQ_ROUTE, &intx::ROUTES);
    config.allow(PIRQ_ROUTE, &PIRQ_WRITABLE);
    let bridge = IsaBridge { config, pirqs };
    bridge.route();
    Arc::new(Mutex::new(bridge))
}

#[cfg(test)]
mod tests;
