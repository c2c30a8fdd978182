//! QEMU's firmware configuration device (`docs/specs/fw_cfg`): items by number, some of them files
//! with names, which firmware reads from ports or has copied into its memory.
//!
//! Nothing here can be written by the guest, and items do not change once it runs.

use std::{collections::BTreeMap, sync::Arc};

use strata_exec::mem::to_usize;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::bus::BusDevice;

/// Numbers of items that firmware knows without a name.
mod key {
    pub const SIGNATURE: u16 = 0x00;
    pub const ID: u16 = 0x01;
    pub const RAM_SIZE: u16 = 0x03;
    pub const NO_GRAPHICS: u16 = 0x04;
    pub const CPUS: u16 = 0x05;
    pub const MAX_CPUS: u16 = 0x0f;
    pub const KERNEL: u16 = 0x11;
    pub const INITRD: u16 = 0x12;
    pub const CMDLINE: u16 = 0x15;
    pub const SETUP: u16 = 0x18;
    pub const FILE_DIRECTORY: u16 = 0x19;
    /// The first file; the others follow.
    pub const FIRST_FILE: u16 = 0x20;
    /// Whether the timer's interrupt, IRQ 0, arrives at pin 2 of the I/O APIC.
    pub const IRQ0_OVERRIDE: u16 = 0x8002;
}

/// Says that ports (bit 0) and copying (bit 1) are there.
const FEATURES: u32 = 0b11;
/// What the DMA address register reads as, in the order of its bytes.
const DMA_SIGNATURE: [u8; 8] = *b"QEMU CFG";

/// Bits of a request's control field, whose upper half is an item's number.
mod control {
    pub const ERROR: u32 = 1 << 0;
    pub const READ: u32 = 1 << 1;
    pub const SKIP: u32 = 1 << 2;
    pub const SELECT: u32 = 1 << 3;
    pub const WRITE: u32 = 1 << 4;
}

/// The items of a machine.
#[derive(Debug, Default)]
pub struct FwCfgItems {
    numbered: BTreeMap<u16, Vec<u8>>,
    files: BTreeMap<String, Vec<u8>>,
}

impl FwCfgItems {
    /// Longest name of a file, in bytes.
    pub const MAX_NAME: usize = 55;
    /// Number of a kernel's main part.
    pub const KERNEL: u16 = key::KERNEL;
    /// Number of its initial RAM file system.
    pub const INITRD: u16 = key::INITRD;
    /// Number of its command line, with the NUL at its end.
    pub const CMDLINE: u16 = key::CMDLINE;
    /// Number of its first part, which runs in real mode.
    pub const SETUP: u16 = key::SETUP;

    /// What every machine says of itself: `memory` bytes, `cpus` processors, no display.
    pub fn new(memory: u64, cpus: u8) -> Self {
        let cpus = u16::from(cpus);
        let mut items = Self::default();
        let mut add = |key, bytes: &[u8]| items.numbered.insert(key, bytes.to_vec());
        add(key::SIGNATURE, b"QEMU");
        add(key::ID, &FEATURES.to_le_bytes());
        add(key::RAM_SIZE, &memory.to_le_bytes());
        add(key::NO_GRAPHICS, &1u16.to_le_bytes());
        add(key::CPUS, &cpus.to_le_bytes());
        add(key::MAX_CPUS, &cpus.to_le_bytes());
        add(key::IRQ0_OVERRIDE, &[1]);
        items
    }

    /// Adds an item that firmware or its programs know by its number.
    pub fn add_item(&mut self, number: u16, content: Vec<u8>) {
        self.numbered.insert(number, content);
    }

    /// Adds a file, in the place of another one of that name.
    ///
    /// # Panics
    /// If the name is longer than [`FwCfgItems::MAX_NAME`]: names stand in code.
    pub fn add_file(&mut self, name: &str, content: Vec<u8>) {
        assert!(name.len() <= Self::MAX_NAME, "'{name}' is too long");
        self.files.insert(name.to_owned(), content);
    }

    /// All items by their number, the directory of files among them.
    fn by_number(self) -> BTreeMap<u16, Vec<u8>> {
        let mut items = self.numbered;
        let number = |len| u32::try_from(len).expect("files are few and short");
        let mut directory = number(self.files.len()).to_be_bytes().to_vec();
        for (item, (name, content)) in (key::FIRST_FILE..).zip(self.files) {
            let mut padded = [0; Self::MAX_NAME + 1];
            padded[..name.len()].copy_from_slice(name.as_bytes());
            directory.extend(number(content.len()).to_be_bytes());
            directory.extend(item.to_be_bytes());
            directory.extend([0; 2]);
            directory.extend(padded);
            items.insert(item, content);
        }
        items.insert(key::FILE_DIRECTORY, directory);
        items
    }
}

/// The device. Its range is [`FwCfg::LEN`] ports from [`FwCfg::BASE`] on.
pub struct FwCfg {
    items: BTreeMap<u16, Vec<u8>>,
    memory: Arc<GuestMemoryMmap>,
    selected: u16,
    /// Bytes of the selected item that have been read or passed over.
    offset: usize,
    /// The upper half of the address register, until the lower one is written.
    address_high: u32,
}

/// A request in guest memory, all fields big endian.
struct DmaRequest {
    control: u32,
    len: u32,
    address: u64,
}

impl FwCfg {
    /// Port of the selector, 16 bits wide. The data port, 8 bits wide, follows it.
    pub const BASE: u64 = 0x510;
    /// Port of the DMA address register's lower half, whose write starts the request.
    pub const DMA_PORT: u16 = 0x518;
    /// Number of ports up to the end of the DMA address register.
    pub const LEN: u64 = 12;
    /// What ACPI calls it.
    pub const ACPI_ID: &str = "QEMU0002";
    const SELECTOR: u64 = 0;
    const DATA: u64 = 1;
    /// The DMA address register, 64 bits wide, big endian.
    const DMA: u64 = 4;
    /// Bytes of a request.
    pub const REQUEST_LEN: usize = 16;
    /// Zeros that a request may ask for behind an item's end: no firmware does, and guests are not
    /// to make a vCPU's thread write gigabytes.
    const MAX_ZEROS: usize = 1 << 20;

    /// A device with `items`, which copies into `memory`.
    pub fn new(items: FwCfgItems, memory: Arc<GuestMemoryMmap>) -> Self {
        Self {
            items: items.by_number(),
            memory,
            selected: 0,
            offset: 0,
            address_high: 0,
        }
    }

    /// The request to copy the first `len` bytes of an item to `address`, for a guest's program.
    pub fn request_to_read(item: u16, address: u64, len: u32) -> [u8; Self::REQUEST_LEN] {
        let control = u32::from(item) << 16 | control::SELECT | control::READ;
        let all = u128::from(control) << 96 | u128::from(len) << 64 | u128::from(address);
        all.to_be_bytes()
    }

    /// Back to the state after power-on.
    pub fn reset(&mut self) {
        self.select(0);
        self.address_high = 0;
    }

    fn select(&mut self, number: u16) {
        self.selected = number;
        self.offset = 0;
    }

    /// What has not been read of the selected item.
    fn rest(&self) -> &[u8] {
        let item = self.items.get(&self.selected);
        item.and_then(|item| item.get(self.offset..)).unwrap_or(&[])
    }

    /// The next byte of the selected item; 0 behind its end.
    fn next_byte(&mut self) -> u8 {
        let byte = self.rest().first().copied();
        self.advance(1);
        byte.unwrap_or(0)
    }

    fn advance(&mut self, len: usize) {
        self.offset = self.offset.saturating_add(len);
    }

    /// Carries out the request at `address`, and says there that it is done.
    fn dma(&mut self, address: u64) {
        let mut bytes = [0; Self::REQUEST_LEN];
        let at = GuestAddress(address);
        let outcome = match self.memory.read_slice(&mut bytes, at) {
            Ok(()) => self.carry_out(&DmaRequest::parse(bytes)),
            Err(_) => Err(()),
        };
        let control = outcome.map_or(control::ERROR, |()| 0);
        // Where the guest has no memory nothing can be reported to it.
        let _ = self.memory.write_slice(&control.to_be_bytes(), at);
    }

    fn carry_out(&mut self, request: &DmaRequest) -> Result<(), ()> {
        let has = |bit| request.control & bit != 0;
        if has(control::SELECT) {
            self.select((request.control >> 16) as u16);
        }
        let len = usize::try_from(request.len).map_err(drop)?;
        if has(control::READ) {
            self.copy_out(request.address, len)?;
        } else if has(control::WRITE) {
            return Err(());
        } else if !has(control::SKIP) {
            return Ok(());
        }
        self.advance(len);
        Ok(())
    }

    /// Copies `len` bytes of the selected item to `address`, zeros behind its end.
    fn copy_out(&self, address: u64, len: usize) -> Result<(), ()> {
        let rest = self.rest();
        let there = len.min(rest.len());
        let zeros = len - there;
        if zeros > Self::MAX_ZEROS {
            return Err(());
        }
        let behind = address.checked_add(there as u64).ok_or(())?;
        let write = |bytes: &[u8], at| self.memory.write_slice(bytes, GuestAddress(at));
        write(&rest[..there], address).map_err(drop)?;
        write(&vec![0; zeros], behind).map_err(drop)
    }
}

impl DmaRequest {
    fn parse(bytes: [u8; FwCfg::REQUEST_LEN]) -> Self {
        let [c0, c1, c2, c3, l0, l1, l2, l3, address @ ..] = bytes;
        Self {
            control: u32::from_be_bytes([c0, c1, c2, c3]),
            len: u32::from_be_bytes([l0, l1, l2, l3]),
            address: u64::from_be_bytes(address),
        }
    }
}

impl BusDevice for FwCfg {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        match (offset, data.len()) {
            (Self::DATA, 1) => data[0] = self.next_byte(),
            (Self::DMA.., _) => {
                let from = to_usize(offset - Self::DMA);
                for (byte, value) in data.iter_mut().zip(&DMA_SIGNATURE[from..]) {
                    *byte = *value;
                }
            }
            _ => {}
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        const LOW: u64 = FwCfg::DMA + 4;
        match (offset, data) {
            (Self::SELECTOR, &[low, high]) => self.select(u16::from_le_bytes([low, high])),
            (Self::DMA, &[a, b, c, d]) => self.address_high = u32::from_be_bytes([a, b, c, d]),
            (LOW, &[a, b, c, d]) => {
                let high = u64::from(std::mem::take(&mut self.address_high));
                self.dma(high << 32 | u64::from(u32::from_be_bytes([a, b, c, d])));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
