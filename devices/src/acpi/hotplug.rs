//! PCI hot plug by ACPI, with the registers of QEMU's PIIX4 (its `acpi_pci_hotplug` specification):
//! a bit for each slot says that a device has come or is to go, and the guest writes the bit of one
//! that may go. General-purpose event 1 notifies it; the DSDT has the handler.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use strata_exec::mem::to_usize;

use super::read_image;
use crate::{bus::BusDevice, host::IrqLine, legacy::Signal};

/// The general-purpose event of PCI hot plug.
const EVENT: u16 = 1 << 1;

/// What the registers show.
pub struct HotPlug {
    /// Slots with devices that the guest may let go of.
    plugged: u32,
    /// Slots into which a device has come since the guest looked.
    up: u32,
    /// Slots whose device is to go.
    down: u32,
    /// Slots that the guest has let go of, for the machine.
    ejected: u32,
    status: u16,
    enable: u16,
    sci: Arc<dyn IrqLine>,
    eject: Signal,
}

impl HotPlug {
    /// Registers that raise `sci`, and call `eject` when the guest has let go of a device.
    pub fn new(sci: Arc<dyn IrqLine>, eject: Signal) -> Self {
        Self {
            plugged: 0,
            up: 0,
            down: 0,
            ejected: 0,
            status: 0,
            enable: 0,
            sci,
            eject,
        }
    }

    /// A device has come into `slot` (0 to 31): the guest learns of it as soon as it listens.
    pub fn plug(&mut self, slot: u8) {
        self.plugged |= 1 << slot;
        self.up |= 1 << slot;
        self.raise();
    }

    /// The device in `slot` is to go: the guest is asked to let go of it. Whether it was not asked
    /// before.
    pub fn ask_to_eject(&mut self, slot: u8) -> bool {
        let first = self.down & 1 << slot == 0;
        self.down |= 1 << slot;
        self.raise();
        first
    }

    /// Slots that the guest has let go of since the last call, as bits.
    pub fn take_ejected(&mut self) -> u32 {
        std::mem::take(&mut self.ejected)
    }

    /// As after power-on. What was to go goes: the guest that would have let go of it is no more.
    /// Those slots are ejected now.
    pub fn reset(&mut self) {
        self.ejected |= self.down & self.plugged;
        self.plugged &= !self.down;
        (self.up, self.down) = (0, 0);
        (self.status, self.enable) = (0, 0);
        self.update_sci();
    }

    fn raise(&mut self) {
        self.status |= EVENT;
        self.update_sci();
    }

    fn update_sci(&self) {
        self.sci.set(self.status & self.enable != 0);
    }

    fn eject(&mut self, slots: u32) {
        let slots = slots & self.plugged;
        self.plugged &= !slots;
        self.up &= !slots;
        self.down &= !slots;
        self.ejected |= slots;
        if slots != 0 {
            (self.eject)();
        }
    }
}

/// The registers about slots: [`SlotPorts::LEN`] ports from [`SlotPorts::BASE`] on.
pub struct SlotPorts(pub Arc<Mutex<HotPlug>>);

/// The block of general-purpose events: [`EventPorts::LEN`] ports from [`EventPorts::BASE`] on.
pub struct EventPorts(pub Arc<Mutex<HotPlug>>);

impl SlotPorts {
    /// First port.
    pub const BASE: u64 = 0xae00;
    /// Number of ports.
    pub const LEN: u64 = 20;
}

impl EventPorts {
    /// First port: status, then enable.
    pub const BASE: u64 = 0xafe0;
    /// Number of ports.
    pub const LEN: u64 = 4;
}

const UP: u64 = 0;
const DOWN: u64 = 4;
const EJECT: u64 = 8;
const REMOVABLE: u64 = 12;

fn lock(shared: &Mutex<HotPlug>) -> MutexGuard<'_, HotPlug> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BusDevice for SlotPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let mut registers = lock(&self.0);
        let mut image = [0; to_usize(Self::LEN)];
        let values = [
            (UP, registers.up),
            (DOWN, registers.down),
            (REMOVABLE, registers.plugged),
        ];
        for (at, value) in values {
            let at = to_usize(at);
            image[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        read_image(&image, offset, data);
        if offset == UP {
            registers.up = 0;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == EJECT {
            let mut slots = [0; 4];
            for (to, from) in slots.iter_mut().zip(data) {
                *to = *from;
            }
            lock(&self.0).eject(u32::from_le_bytes(slots));
        }
    }
}

impl BusDevice for EventPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let registers = lock(&self.0);
        let ([s0, s1], [e0, e1]) = (
            registers.status.to_le_bytes(),
            registers.enable.to_le_bytes(),
        );
        read_image(&[s0, s1, e0, e1], offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut registers = lock(&self.0);
        for (port, &byte) in (offset..).zip(data) {
            let bits = u16::from(byte);
            match port {
                0 => registers.status &= !bits,
                1 => registers.status &= !(bits << 8),
                2 => registers.enable = registers.enable & 0xff00 | bits,
                3 => registers.enable = registers.enable & 0x00ff | bits << 8,
                _ => {}
            }
        }
        registers.update_sci();
    }
}

#[cfg(test)]
mod tests;
