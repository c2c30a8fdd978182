//! The PCI function of the controller: 82371SB function 1.

use std::sync::{Arc, Mutex, MutexGuard};

use super::{BUS_MASTER_LEN, bus_master, channel::Channel, lock};
use crate::pci::{
    ConfigSpace, Identity, PciDevice,
    config::{BarKind, Command},
};

const INTEL: u16 = 0x8086;
const PIIX3_IDE: u16 = 0x7010;
/// Mass storage, IDE, bus master with both channels at the fixed ports.
const CLASS: u32 = 0x01_01_80;
const BUS_MASTER_BAR: usize = 4;
/// IDETIM of the two channels, then SIDETIM.
const TIMING: usize = 0x40;
const TIMING_LEN: usize = 5;
/// IDETIM's high byte: the channel's ports are decoded. Drivers pass over a channel without it.
const DECODE_ENABLE: u8 = 1 << 7;

/// The function.
pub struct Function {
    config: ConfigSpace,
    channels: [Arc<Mutex<Channel>>; 2],
}

impl Function {
    /// A function in front of `channels`, its bus master at the port `address`.
    pub fn new(channels: [Arc<Mutex<Channel>>; 2], address: u16) -> Self {
        let mut config = ConfigSpace::new(Identity {
            vendor: INTEL,
            device: PIIX3_IDE,
            class: CLASS,
            revision: 0,
            subsystem: (0, 0),
            multi_function: false,
        });
        config.add_bar(BUS_MASTER_BAR, BarKind::Io, BUS_MASTER_LEN, address.into());
        config.allow(TIMING, &[0xff; TIMING_LEN]);
        for (at, channel) in channels.iter().enumerate() {
            // As firmware does, only where it has found something.
            if lock(channel).has_drives() {
                config.put(TIMING + 2 * at + 1, &[DECODE_ENABLE]);
            }
        }
        Self { config, channels }
    }

    fn start_again(&mut self, start: fn(&mut Channel)) {
        self.config.reset();
        for channel in &self.channels {
            start(&mut lock(channel));
        }
        self.update_mastering();
    }

    fn update_mastering(&self) {
        let on = self.config.command().contains(Command::BUS_MASTER);
        for channel in &self.channels {
            lock(channel).set_mastering(on);
        }
    }

    /// The channel whose engine has the register at `offset`, and the register's number there.
    fn engine(&self, offset: u64) -> Option<(MutexGuard<'_, Channel>, u64)> {
        let at = usize::try_from(offset / bus_master::LEN).ok()?;
        Some((lock(self.channels.get(at)?), offset % bus_master::LEN))
    }
}

impl PciDevice for Function {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
        self.update_mastering();
    }

    fn read_bar(&mut self, _bar: usize, offset: u64, data: &mut [u8]) {
        for (port, byte) in (offset..).zip(data) {
            if let Some((channel, register)) = self.engine(port)
                && let Some(value) = channel.read_bus_master(register)
            {
                *byte = value;
            }
        }
    }

    fn write_bar(&mut self, _bar: usize, offset: u64, data: &[u8]) {
        for (port, &byte) in (offset..).zip(data) {
            if let Some((mut channel, register)) = self.engine(port) {
                channel.write_bus_master(register, byte);
            }
        }
    }

    fn reset(&mut self) {
        self.start_again(Channel::power_on);
    }

    fn wake_up(&mut self) {
        self.start_again(Channel::wake_up);
    }
}
