//! The root bus: which function sits where, and the address decoding in front of them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use strata_exec::mem::to_usize;

use super::{
    PciDevice, SharedPciDevice, Slot,
    config::{BarRange, Space},
};
use crate::bus::BusDevice;

/// A slot is taken already.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("PCI slot {0:?} is taken")]
pub struct SlotTaken(Slot);

struct Function {
    device: SharedPciDevice,
    /// What the function decodes, kept here so that an access locks nothing but its target.
    ranges: Vec<BarRange>,
}

impl Function {
    fn device(&self) -> MutexGuard<'_, dyn PciDevice + 'static> {
        lock(&self.device)
    }

    fn refresh(&mut self) {
        let ranges = self.device().config().decoded().collect();
        self.ranges = ranges;
    }
}

/// Bus 0 and the functions on it.
#[derive(Default)]
pub struct PciRoot {
    functions: BTreeMap<Slot, Function>,
}

impl PciRoot {
    /// Puts `device` into `slot`. A device with several functions needs a function 0.
    ///
    /// # Errors
    /// [`SlotTaken`] if another function is there.
    pub fn insert(&mut self, slot: Slot, device: SharedPciDevice) -> Result<(), SlotTaken> {
        if self.functions.contains_key(&slot) {
            return Err(SlotTaken(slot));
        }
        let mut function = Function {
            device,
            ranges: Vec::new(),
        };
        function.refresh();
        self.functions.insert(slot, function);
        Ok(())
    }

    /// Takes the function out of `slot`, if there is one.
    pub fn remove(&mut self, slot: Slot) -> Option<SharedPciDevice> {
        self.functions.remove(&slot).map(|function| function.device)
    }

    /// Whether a function is in `slot`.
    pub fn is_taken(&self, slot: Slot) -> bool {
        self.functions.contains_key(&slot)
    }

    /// Resets every function, as the machine's reset does.
    pub fn reset(&mut self) {
        self.each(|device| device.reset());
    }

    /// The bus has power again, after the guest had suspended to memory.
    pub fn wake_up(&mut self) {
        self.each(|device| device.wake_up());
    }

    fn each(&mut self, change: impl Fn(&mut dyn PciDevice)) {
        for function in self.functions.values_mut() {
            change(&mut *function.device());
            function.refresh();
        }
    }

    fn read_config(&mut self, slot: Slot, offset: usize, data: &mut [u8]) {
        if let Some(function) = self.functions.get_mut(&slot) {
            function.device().read_config(offset, data);
        }
    }

    fn write_config(&mut self, slot: Slot, offset: usize, data: &[u8]) {
        if let Some(function) = self.functions.get_mut(&slot) {
            function.device().write_config(offset, data);
            function.refresh();
        }
    }

    /// The function whose BAR holds the whole access, the BAR, and the offset in it. Where a guest
    /// has laid BARs over each other, the lowest slot answers.
    fn decode(&self, space: Space, address: u64, len: usize) -> Option<(&Function, usize, u64)> {
        self.functions.values().find_map(|function| {
            function.ranges.iter().find_map(|range| {
                let offset = address.checked_sub(range.base)?;
                let end = offset.checked_add(len as u64)?;
                (range.space == space && end <= range.len).then_some((function, range.bar, offset))
            })
        })
    }
}

fn lock<T: ?Sized>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Configuration mechanism 1 (PCI 3.0, 3.2.2.3.2): eight ports from
/// [`super::CONFIG_PORTS_BASE`] on.
pub struct ConfigPorts {
    root: Arc<Mutex<PciRoot>>,
    /// CONFIG_ADDRESS as last written.
    address: u32,
    /// Called when the guest asks for a reset through port 0xCF9, which PIIX3 has inside this
    /// range.
    reset: Box<dyn Fn() + Send>,
}

impl ConfigPorts {
    /// The ports in front of `root`. `reset` is called when the guest sets the reset bit of port
    /// 0xCF9.
    pub fn new(root: Arc<Mutex<PciRoot>>, reset: Box<dyn Fn() + Send>) -> Self {
        Self {
            root,
            address: 0,
            reset,
        }
    }

    /// The register that CONFIG_ADDRESS names, if it enables configuration cycles on bus 0.
    fn target(&self) -> Option<(Slot, usize)> {
        let [register, devfn, bus, enable] = self.address.to_le_bytes();
        let slot = Slot::new(devfn >> 3, devfn & 7);
        (enable & 0x80 != 0 && bus == 0).then_some((slot, usize::from(register & 0xfc)))
    }
}

impl BusDevice for ConfigPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        match (offset, data.len()) {
            (0, 4) => data.copy_from_slice(&self.address.to_le_bytes()),
            (1, 1) => data[0] = 0,
            (4..8, 1..=4) => {
                if let Some((slot, register)) = self.target() {
                    let within = to_usize(offset - 4);
                    lock(&self.root).read_config(slot, register + within, data);
                }
            }
            _ => {}
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        /// Reset Control Register, bit "reset CPU".
        const RESET_CPU: u8 = 1 << 2;
        match (offset, data) {
            (0, &[a, b, c, d]) => self.address = u32::from_le_bytes([a, b, c, d]),
            (1, &[control]) if control & RESET_CPU != 0 => (self.reset)(),
            (4..8, _) if data.len() <= 4 => {
                if let Some((slot, register)) = self.target() {
                    let within = to_usize(offset - 4);
                    lock(&self.root).write_config(slot, register + within, data);
                }
            }
            _ => {}
        }
    }
}

/// The bus's part of an address space: decodes to whatever BAR is there at the moment.
pub struct Window {
    root: Arc<Mutex<PciRoot>>,
    space: Space,
    base: u64,
}

impl Window {
    /// The window for memory BARs: [`super::MMIO_WINDOW_LEN`] bytes from
    /// [`super::MMIO_WINDOW_BASE`] on.
    pub fn memory(root: Arc<Mutex<PciRoot>>) -> Self {
        Self {
            root,
            space: Space::Memory,
            base: super::MMIO_WINDOW_BASE,
        }
    }

    /// The window for I/O BARs: [`super::IO_WINDOW_LEN`] ports from [`super::IO_WINDOW_BASE`] on.
    pub fn io(root: Arc<Mutex<PciRoot>>) -> Self {
        Self {
            root,
            space: Space::Io,
            base: super::IO_WINDOW_BASE,
        }
    }
}

impl BusDevice for Window {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        let root = lock(&self.root);
        if let Some((function, bar, at)) = root.decode(self.space, self.base + offset, data.len()) {
            function.device().read_bar(bar, at, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let root = lock(&self.root);
        if let Some((function, bar, at)) = root.decode(self.space, self.base + offset, data.len()) {
            function.device().write_bar(bar, at, data);
        }
    }
}

#[cfg(test)]
mod tests;
