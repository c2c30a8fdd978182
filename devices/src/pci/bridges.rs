//! The two bridges of a 440FX PC: the host bridge and the PIIX3 ISA bridge.
//!
//! A guest needs them to find a PC it knows; of their registers only those do something that route
//! interrupts. Firmware
//! knows by the subsystem ids that it runs on QEMU's, and by its PAM registers that it may write to
//! the memory below 1 MiB, where there is always memory here.

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
/// The seven programmable attribute map registers: for each part of the memory from 0xC0000 to 1
/// MiB whether reads and writes reach it (82441FX data sheet, 3.2.18). They are storage only.
const PAM: usize = 0x59;
const PAM_WRITABLE: [u8; 7] = [0x30, 0x33, 0x33, 0x33, 0x33, 0x33, 0x33];
/// PIIX3's four PIRQ route control registers (see [`Pirqs::route`]), as a BIOS leaves them.
const PIRQ_ROUTE: usize = 0x60;
const PIRQ_WRITABLE: [u8; 4] = [0x8f; 4];

struct Bridge(ConfigSpace);

impl PciDevice for Bridge {
    fn config(&self) -> &ConfigSpace {
        &self.0
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.0.write(offset, data);
    }

    fn read_bar(&mut self, _bar: usize, _offset: u64, _data: &mut [u8]) {}

    fn write_bar(&mut self, _bar: usize, _offset: u64, _data: &[u8]) {}

    fn reset(&mut self) {
        self.0.reset();
    }
}

/// The 440FX host bridge (82441FX), for [`HOST_BRIDGE`].
pub fn host_bridge() -> SharedPciDevice {
    let mut config = ConfigSpace::new(Identity {
        vendor: INTEL,
        device: 0x1237,
        class: 0x06_00_00,
        revision: 2,
        subsystem: QEMU,
        multi_function: false,
    });
    config.allow(PAM, &PAM_WRITABLE);
    Arc::new(Mutex::new(Bridge(config)))
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
