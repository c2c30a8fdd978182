//! Kernels with a multiboot header, and what is passed to them (Multiboot specification 0.6.96).

use std::{io, os::unix::fs::FileExt};

use strata_exec::mem::to_usize;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{
    BootError, Placed, Source,
    elf::{self, Elf},
    kernel::not_a_kernel,
    page_align,
};
use crate::layout::{self, below_4g};

/// The header lies in so many bytes from the file's start.
const SEARCHED: usize = 8192;
const HEADER_MAGIC: u32 = 0x1bad_b002;
/// In EAX at the start.
pub(super) const MAGIC: u32 = 0x2bad_b002;
/// The header says itself where the file is loaded.
const HAS_ADDRESSES: u32 = 1 << 16;
/// What a kernel can demand, and is given: aligned modules, the size of memory. The third, a video
/// mode, makes no sense without a display: kernels that want one find none.
const KNOWN: u32 = 0b111;
const DEMANDS: u32 = 0xffff;

/// Bits of the information: what is in it.
const INFO_MEMORY: u32 = 1 << 0;
const INFO_CMDLINE: u32 = 1 << 2;
const INFO_MODULES: u32 = 1 << 3;
const INFO_MAP: u32 = 1 << 6;
const INFO_LOADER: u32 = 1 << 9;
/// Bytes of the information.
const INFO_LEN: usize = 116;
/// Bytes of a module's entry.
const MODULE_LEN: usize = 16;
const LOADER: &[u8] = b"strata\0";

/// A kernel with a multiboot header.
pub(super) struct Multiboot {
    entry: u64,
    start: u64,
    end: u64,
    image: Image,
}

/// How it is loaded.
enum Image {
    Elf(Elf),
    /// A range of the file, given by offset and length, to the start; zeros follow.
    Flat((u64, u64)),
}

impl Multiboot {
    /// The kernel in this file, if it is one.
    ///
    /// # Errors
    /// It is one that cannot be booted.
    pub fn find(kernel: &Source) -> Result<Option<Self>, BootError> {
        let mut bytes = vec![0; SEARCHED];
        let len = read_up_to(kernel, &mut bytes)?;
        bytes.truncate(len);
        let word = |at: usize| {
            let word = bytes.get(at..at + 4)?;
            Some(u32::from_le_bytes(word.try_into().ok()?))
        };
        let found = (0..bytes.len().saturating_sub(11)).step_by(4).find(|&at| {
            let words = [word(at), word(at + 4), word(at + 8)].map(Option::unwrap_or_default);
            let sum = words[0].wrapping_add(words[1]).wrapping_add(words[2]);
            words[0] == HEADER_MAGIC && sum == 0
        });
        let Some(at) = found else { return Ok(None) };
        let flags = word(at + 4).unwrap_or_default();
        if flags & DEMANDS & !KNOWN != 0 {
            let why = format!("its multiboot header demands what is not known (flags {flags:#x})");
            return Err(not_a_kernel(kernel, why));
        }
        let fields = [12, 16, 20, 24, 28].map(|field| word(at + field).map(u64::from));
        let found = match fields {
            [
                Some(header),
                Some(load),
                Some(load_end),
                Some(end),
                Some(entry),
            ] if flags & HAS_ADDRESSES != 0 => {
                let at = at as u64;
                Self::flat(kernel, at, [header, load, load_end, end, entry])?
            }
            _ if bytes.starts_with(b"\x7fELF") => Self::elf(Elf::read(kernel)?),
            _ => return Err(not_a_kernel(kernel, "its multiboot header is cut off")),
        };
        let (least, most) = (layout::MULTIBOOT_LOWEST, u64::from(u32::MAX));
        if found.start < least || found.end > most || found.entry > most {
            let why = format!("it is to be loaded below {least:#x} or above 4 GiB");
            return Err(not_a_kernel(kernel, why));
        }
        Ok(Some(found))
    }

    fn elf(elf: Elf) -> Self {
        Self {
            entry: elf.physical_entry(),
            start: elf.start(),
            end: elf.end(),
            image: Image::Elf(elf),
        }
    }

    /// From the addresses in the header, which lies `at` bytes into the file.
    fn flat(kernel: &Source, at: u64, addresses: [u64; 5]) -> Result<Self, BootError> {
        let [header, load, load_end, end, entry] = addresses;
        let bad = || {
            not_a_kernel(
                kernel,
                "the addresses in its multiboot header make no sense",
            )
        };
        let before = header.checked_sub(load).ok_or_else(bad)?;
        let offset = at.checked_sub(before).ok_or_else(bad)?;
        let rest = kernel.len()?.saturating_sub(offset);
        let len = match load_end {
            // All of the file.
            0 => rest,
            _ => load_end.checked_sub(load).ok_or_else(bad)?,
        };
        if len > rest {
            return Err(bad());
        }
        Ok(Self {
            entry,
            start: load,
            end: end.max(load + len),
            image: Image::Flat((offset, len)),
        })
    }

    /// First byte that it does not use.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Where it starts; 4 GiB at most.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// Puts it where it belongs.
    ///
    /// # Errors
    /// The file cannot be read, or there is no memory.
    pub fn load(&self, kernel: &mut Source, memory: &GuestMemoryMmap) -> Result<(), BootError> {
        match &self.image {
            Image::Elf(elf) => elf.load(kernel, memory),
            Image::Flat((offset, len)) => {
                elf::copy(kernel, memory, (*offset, *len), self.start)?;
                elf::clear(memory, self.start + len, self.end - self.start - len)
            }
        }
    }

    /// Where the information goes: into low memory, unless the kernel has taken that.
    fn info_address(&self, behind: u64) -> u64 {
        if self.start >= layout::EXTENDED {
            layout::MULTIBOOT_INFO
        } else {
            page_align(behind)
        }
    }

    /// Writes what is passed to the kernel, behind `behind` where low memory is taken; its address.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn write_info(
        &self,
        memory: &GuestMemoryMmap,
        size: u64,
        cmdline: &[u8],
        modules: &[(Placed, &[u8])],
        behind: u64,
    ) -> Result<u64, BootError> {
        let address = self.info_address(behind);
        let bytes = build(address, size, cmdline, modules);
        if address < layout::EXTENDED && address + bytes.len() as u64 > layout::EBDA {
            let limit = to_usize(layout::EBDA - address);
            let len = bytes.len();
            return Err(BootError::CommandLine { len, limit });
        }
        memory.write_slice(&bytes, GuestAddress(address))?;
        Ok(address)
    }
}

/// The information for a guest with `size` bytes of memory, with all that it points to behind it.
fn build(address: u64, size: u64, cmdline: &[u8], modules: &[(Placed, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; INFO_LEN];
    let set = |bytes: &mut [u8], at: usize, value: u64| {
        bytes[at..at + 4].copy_from_slice(&below_4g(value).to_le_bytes());
    };
    let mut map = Vec::new();
    for (start, len, kind) in layout::e820(size) {
        map.extend(20u32.to_le_bytes());
        map.extend(start.to_le_bytes());
        map.extend(len.to_le_bytes());
        map.extend((kind as u32).to_le_bytes());
    }
    let append = |bytes: &mut Vec<u8>, part: &[u8]| {
        let at = address + bytes.len() as u64;
        bytes.extend(part);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        at
    };
    let text = |text: &[u8]| [text, &[0]].concat();
    let map_at = append(&mut bytes, &map);
    let cmdline = append(&mut bytes, &text(cmdline));
    let loader = append(&mut bytes, LOADER);
    let texts: Vec<_> = modules
        .iter()
        .map(|(_, words)| append(&mut bytes, &text(words)))
        .collect();
    let mut list = vec![0; MODULE_LEN * modules.len()];
    for ((entry, (placed, _)), text) in list.chunks_mut(MODULE_LEN).zip(modules).zip(texts) {
        set(entry, 0, placed.start);
        set(entry, 4, placed.start + placed.len);
        set(entry, 8, text);
    }
    let list = append(&mut bytes, &list);

    let low = layout::low_memory(size);
    let flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODULES | INFO_MAP | INFO_LOADER;
    let fields = [
        (0, flags.into()),
        (4, layout::EBDA >> 10),
        (8, low.saturating_sub(layout::EXTENDED) >> 10),
        (16, cmdline),
        (20, modules.len() as u64),
        (24, list),
        (44, map.len() as u64),
        (48, map_at),
        (64, loader),
    ];
    for (at, value) in fields {
        set(&mut bytes, at, value);
    }
    bytes
}

/// What of the file fits into `bytes`; how much that is.
fn read_up_to(kernel: &Source, bytes: &mut [u8]) -> Result<usize, BootError> {
    let mut done = 0;
    while done < bytes.len() {
        match kernel.file.read_at(&mut bytes[done..], done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(kernel.error(error)),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests;
