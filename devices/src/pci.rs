//! PCI: one root bus of functions, reached through configuration mechanism 1 and two windows.
//!
//! A device is a [`PciDevice`]: a [`ConfigSpace`] and what lies behind its BARs. It is put on the
//! bus with [`PciRoot::insert`]; the bus routes configuration accesses and decodes BARs, so a
//! device never meets an absolute address and a guest that moves a BAR needs no change elsewhere:
//!
//! ```text
//! 0xCF8, 0xCFC ──▶ ConfigPorts ──▶ PciDevice::read_config / write_config
//! MMIO window ───▶ Window ───────▶ PciDevice::read_bar / write_bar (memory BARs)
//! I/O window ────▶ Window ───────▶ PciDevice::read_bar / write_bar (I/O BARs)
//! ```
//!
//! There need be no firmware. BARs get their addresses from a [`BarAllocator`] when a device is
//! made, and decoding is on from the start, as a PC's BIOS would leave it.
//!
//! A function that has registers elsewhere, too (the IDE function's fixed ports), keeps those in a
//! [`crate::bus::BusDevice`] of its own that shares the registers with its `PciDevice`.

pub mod bridges;
pub(crate) mod config;
pub mod intx;
pub(crate) mod msix;
mod root;

#[cfg(test)]
pub(crate) mod doubles;

use std::sync::{Arc, Mutex};

pub use config::{ConfigSpace, Identity};
pub use root::{ConfigPorts, PciRoot, SlotTaken, Window};

/// First address of the window that memory BARs live in.
pub const MMIO_WINDOW_BASE: u64 = 0xc000_0000;
/// Bytes in the memory window; the I/O APIC follows it.
pub const MMIO_WINDOW_LEN: u64 = 0xfec0_0000 - MMIO_WINDOW_BASE;
/// First port of the window that I/O BARs live in.
pub const IO_WINDOW_BASE: u64 = 0xc000;
/// Ports in the I/O window.
pub const IO_WINDOW_LEN: u64 = 0x1_0000 - IO_WINDOW_BASE;
/// First port of configuration mechanism 1: the address at 0xCF8, the data at 0xCFC.
pub const CONFIG_PORTS_BASE: u64 = 0xcf8;
/// Ports of configuration mechanism 1.
pub const CONFIG_PORTS_LEN: u64 = 8;

/// Device and function number on the root bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    device: u8,
    function: u8,
}

impl Slot {
    /// Device `device` (0 to 31), function `function` (0 to 7).
    ///
    /// # Panics
    /// If a number is out of range: the machine's layout is fixed in code.
    pub const fn new(device: u8, function: u8) -> Self {
        assert!(device < 32 && function < 8, "no such slot");
        Self { device, function }
    }
}

/// One function on the PCI bus.
///
/// Accesses are 1, 2, 4 or (behind BARs) 8 bytes, little endian, and may be anything a guest cares
/// to send. The bus asks for [`PciDevice::config`] after every configuration access and decodes
/// from what it says.
pub trait PciDevice: Send {
    /// The configuration space as it is now.
    fn config(&self) -> &ConfigSpace;

    /// The guest reads configuration space; the access lies within one aligned dword.
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        self.config().read(offset, data);
    }

    /// The guest writes configuration space; the access lies within one aligned dword.
    /// Implementations pass it to [`ConfigSpace::write`] and then look at what changed.
    fn write_config(&mut self, offset: usize, data: &[u8]);

    /// The guest reads behind BAR `bar`; `offset` counts from the BAR's start. `data` comes filled
    /// with ones.
    fn read_bar(&mut self, bar: usize, offset: u64, data: &mut [u8]);

    /// The guest writes behind BAR `bar`.
    fn write_bar(&mut self, bar: usize, offset: u64, data: &[u8]);

    /// The bus is reset: back to the state after construction. A device with work in flight on
    /// another thread may finish that later, but its guest must not notice.
    fn reset(&mut self);

    /// The bus has power again, after the guest had suspended to memory: as after
    /// [`PciDevice::reset`], but for what a guest that goes on would take for another device.
    fn wake_up(&mut self) {
        self.reset();
    }
}

/// A function that the bus and its worker's owner can reach.
pub type SharedPciDevice = Arc<Mutex<dyn PciDevice>>;

/// Hands out BAR addresses in ascending order, each a multiple of its size.
#[derive(Debug)]
pub struct BarAllocator {
    next_memory: u64,
    next_io: u64,
}

/// A window has no room left for a BAR.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no room left in the PCI window for a BAR of {size} bytes")]
pub struct NoRoom {
    /// Bytes asked for.
    pub size: u64,
}

impl Default for BarAllocator {
    fn default() -> Self {
        Self {
            next_memory: MMIO_WINDOW_BASE,
            next_io: IO_WINDOW_BASE,
        }
    }
}

impl BarAllocator {
    /// An address for a memory BAR of `size` bytes, a power of two.
    ///
    /// # Errors
    /// [`NoRoom`] if the window is full.
    pub fn memory(&mut self, size: u64) -> Result<u64, NoRoom> {
        take(
            &mut self.next_memory,
            MMIO_WINDOW_BASE + MMIO_WINDOW_LEN,
            size,
        )
    }

    /// A first port for an I/O BAR of `size` ports, a power of two.
    ///
    /// # Errors
    /// [`NoRoom`] if the window is full.
    pub fn io(&mut self, size: u64) -> Result<u16, NoRoom> {
        let port = take(&mut self.next_io, IO_WINDOW_BASE + IO_WINDOW_LEN, size)?;
        u16::try_from(port).map_err(|_| NoRoom { size })
    }
}

fn take(next: &mut u64, end: u64, size: u64) -> Result<u64, NoRoom> {
    let base = next.next_multiple_of(size);
    if base + size > end {
        return Err(NoRoom { size });
    }
    *next = base + size;
    Ok(base)
}
