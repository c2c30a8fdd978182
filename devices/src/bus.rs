//! Address decoding for port I/O and MMIO.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The front half of a device: answers accesses to a range of addresses on the vCPU threads.
///
/// `offset` counts bytes from the start of the range; `data` is 1, 2, 4 or 8 bytes long, little
/// endian. Anything may come from a guest: an access that means nothing reads as ones and writes
/// nothing.
pub trait BusDevice: Send {
    /// The guest reads.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// The guest writes.
    fn write(&mut self, offset: u64, data: &[u8]);
    /// The guest reads several items of `size` bytes from the same place, by one instruction.
    fn read_items(&mut self, offset: u64, size: usize, data: &mut [u8]) {
        data.chunks_mut(size)
            .for_each(|item| self.read(offset, item));
    }
    /// The guest writes several items, as [`BusDevice::read_items`] reads.
    fn write_items(&mut self, offset: u64, size: usize, data: &[u8]) {
        data.chunks(size).for_each(|item| self.write(offset, item));
    }
}

/// A device that several ranges, and the machine's own code, can reach.
pub type SharedDevice = Arc<Mutex<dyn BusDevice>>;

/// Two ranges overlap.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("range {base:#x}+{len:#x} overlaps another device or is empty")]
pub struct Overlap {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub len: u64,
}

/// One address space (ports or MMIO): ranges and the devices behind them.
#[derive(Default)]
pub struct Bus {
    ranges: BTreeMap<u64, (u64, SharedDevice)>,
}

impl Bus {
    /// Puts `device` behind `len` addresses from `base` on.
    ///
    /// # Errors
    /// [`Overlap`] if the range is empty, wraps, or meets another one.
    pub fn insert(&mut self, base: u64, len: u64, device: SharedDevice) -> Result<(), Overlap> {
        let overlap = Overlap { base, len };
        let end = base.checked_add(len).filter(|_| len != 0).ok_or(overlap)?;
        if let Some((&start, &(other, _))) = self.ranges.range(..end).next_back()
            && start + other > base
        {
            return Err(Overlap { base, len });
        }
        self.ranges.insert(base, (len, device));
        Ok(())
    }

    /// Removes the range that starts at `base`; whether there was one.
    pub fn remove(&mut self, base: u64) -> bool {
        self.ranges.remove(&base).is_some()
    }

    /// Reads `data.len()` bytes at `address`; ones where no device is.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((offset, device)) = self.find(address, data.len()) {
            device
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .read(offset, data);
        }
    }

    /// Writes `data` at `address`; nothing happens where no device is.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((offset, device)) = self.find(address, data.len()) {
            device
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write(offset, data);
        }
    }

    /// Reads items of `size` bytes, at least 1, at `address`; ones where no device is.
    pub fn read_items(&self, address: u64, size: usize, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((offset, device)) = self.find(address, size) {
            device
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .read_items(offset, size, data);
        }
    }

    /// Writes items of `size` bytes, at least 1, at `address`; nothing happens where no device is.
    pub fn write_items(&self, address: u64, size: usize, data: &[u8]) {
        if let Some((offset, device)) = self.find(address, size) {
            device
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write_items(offset, size, data);
        }
    }

    /// The device whose range holds the whole access.
    fn find(&self, address: u64, len: usize) -> Option<(u64, &SharedDevice)> {
        let (&base, (range, device)) = self.ranges.range(..=address).next_back()?;
        let offset = address - base;
        (offset.checked_add(len as u64)? <= *range).then_some((offset, device))
    }
}

#[cfg(test)]
mod tests;
