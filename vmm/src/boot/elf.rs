//! ELF files, as far as booting one needs it: what is loaded where, and where it starts.

use std::{
    io::{self, Seek},
    os::unix::fs::FileExt,
};

use strata_exec::mem::to_usize;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{BootError, Source, kernel::not_a_kernel};

/// Program headers that a kernel can reasonably have.
const MAX_SEGMENTS: u16 = 64;
/// Bytes of notes that are looked through.
const MAX_NOTES: u64 = 64 << 10;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const I386: u16 = 3;
const X86_64: u16 = 62;
/// XEN_ELFNOTE_PHYS32_ENTRY: where a PVH kernel starts.
const PHYS32_ENTRY: u32 = 18;
/// Zeros are written so many at a time.
const ZEROS: [u8; 4096] = [0; 4096];

/// An ELF file for x86.
pub(super) struct Elf {
    /// It is for x86-64.
    pub is_64_bit: bool,
    /// Where it says that it starts.
    entry: u64,
    segments: Vec<Segment>,
    /// Where it starts as a PVH kernel, if it is one.
    pub pvh_entry: Option<u64>,
}

/// A part of the file that is loaded.
struct Segment {
    offset: u64,
    virtual_address: u64,
    address: u64,
    file_len: u64,
    len: u64,
}

/// The fields of a header whose place depends on its width.
struct Reader<'a> {
    bytes: &'a [u8],
    is_64_bit: bool,
}

impl Reader<'_> {
    fn half(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().expect("four bytes"))
    }

    /// An address or an offset: at one place in a narrow header, at another in a wide one.
    fn native(&self, narrow: usize, wide: usize) -> u64 {
        if !self.is_64_bit {
            return self.word(narrow).into();
        }
        u64::from_le_bytes(self.bytes[wide..wide + 8].try_into().expect("eight bytes"))
    }
}

impl Elf {
    /// Reads the headers of a file that begins as an ELF file does.
    ///
    /// # Errors
    /// It is no such file for x86, or is damaged.
    pub fn read(kernel: &Source) -> Result<Self, BootError> {
        let bad = |why: &str| not_a_kernel(kernel, format!("it is an ELF file, but {why}"));
        let mut header = [0; 64];
        read_at(kernel, &mut header[..52], 0)?;
        let is_64_bit = header[4] == 2;
        if is_64_bit {
            read_at(kernel, &mut header, 0)?;
        }
        let header = Reader {
            bytes: &header,
            is_64_bit,
        };
        let machine = if is_64_bit { X86_64 } else { I386 };
        if header.half(18) != machine {
            return Err(bad("not one for x86-64 or i386"));
        }
        let table = header.native(28, 32);
        let (entry_size, count) = if is_64_bit {
            (header.half(54), header.half(56))
        } else {
            (header.half(42), header.half(44))
        };
        if entry_size != if is_64_bit { 56 } else { 32 } || count > MAX_SEGMENTS {
            return Err(bad("its program headers make no sense"));
        }
        let mut elf = Self {
            is_64_bit,
            entry: header.native(24, 24),
            segments: Vec::new(),
            pvh_entry: None,
        };
        for index in 0..u64::from(count) {
            let mut bytes = [0; 56];
            let bytes = &mut bytes[..usize::from(entry_size)];
            read_at(
                kernel,
                bytes,
                table.saturating_add(index * u64::from(entry_size)),
            )?;
            elf.take(kernel, &Reader { bytes, is_64_bit })?;
        }
        Ok(elf)
    }

    /// Takes in a program header.
    fn take(&mut self, kernel: &Source, header: &Reader<'_>) -> Result<(), BootError> {
        let segment = Segment {
            offset: header.native(4, 8),
            virtual_address: header.native(8, 16),
            address: header.native(12, 24),
            file_len: header.native(16, 32),
            len: header.native(20, 40),
        };
        match header.word(0) {
            PT_LOAD if segment.len > 0 => {
                if segment.file_len > segment.len {
                    let why = "it is an ELF file, but a part of it is longer than its memory";
                    return Err(not_a_kernel(kernel, why));
                }
                self.segments.push(segment);
            }
            PT_NOTE => {
                let mut notes = vec![0; segment.file_len.min(MAX_NOTES) as usize];
                read_at(kernel, &mut notes, segment.offset)?;
                self.pvh_entry = self.pvh_entry.or_else(|| find_pvh_entry(&notes));
            }
            _ => {}
        }
        Ok(())
    }

    /// First address that is loaded; 0 if nothing is.
    pub fn start(&self) -> u64 {
        let starts = self.segments.iter().map(|segment| segment.address);
        starts.min().unwrap_or(0)
    }

    /// First address behind all that is loaded.
    pub fn end(&self) -> u64 {
        let ends = self.segments.iter();
        let ends = ends.map(|segment| segment.address.saturating_add(segment.len));
        ends.max().unwrap_or(0)
    }

    /// Where it says that it starts; as a physical address, if it means a virtual one.
    pub fn physical_entry(&self) -> u64 {
        let found = self.segments.iter().find_map(|segment| {
            let offset = self.entry.checked_sub(segment.virtual_address)?;
            (offset < segment.len).then(|| segment.address.wrapping_add(offset))
        });
        found.unwrap_or(self.entry)
    }

    /// The entry point as the file has it.
    pub fn entry(&self) -> u64 {
        self.entry
    }

    /// Puts all parts where they belong, zeros behind those that are longer in memory.
    ///
    /// # Errors
    /// The file cannot be read, or there is no memory.
    pub fn load(&self, kernel: &mut Source, memory: &GuestMemoryMmap) -> Result<(), BootError> {
        for segment in &self.segments {
            let Segment {
                offset,
                address,
                file_len,
                ..
            } = *segment;
            copy(kernel, memory, (offset, file_len), address)?;
            clear(memory, address + file_len, segment.len - file_len)?;
        }
        Ok(())
    }
}

/// Copies a range of the file, given by its offset and length, to `address`.
pub(super) fn copy(
    kernel: &mut Source,
    memory: &GuestMemoryMmap,
    (offset, len): (u64, u64),
    address: u64,
) -> Result<(), BootError> {
    let sought = kernel.file.seek(io::SeekFrom::Start(offset));
    sought.map_err(|error| kernel.error(error))?;
    memory
        .read_exact_volatile_from(GuestAddress(address), &mut kernel.file, to_usize(len))
        .map_err(|error| kernel.error(io::Error::other(error)))
}

/// Writes `len` zeros to `address`.
pub(super) fn clear(memory: &GuestMemoryMmap, address: u64, len: u64) -> Result<(), BootError> {
    let end = address.saturating_add(len);
    let mut at = address;
    while at < end {
        let piece = (end - at).min(ZEROS.len() as u64);
        memory.write_slice(&ZEROS[..to_usize(piece)], GuestAddress(at))?;
        at += piece;
    }
    Ok(())
}

fn read_at(kernel: &Source, bytes: &mut [u8], offset: u64) -> Result<(), BootError> {
    let read = kernel.file.read_exact_at(bytes, offset);
    read.map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            not_a_kernel(kernel, "it is an ELF file that ends too early")
        }
        _ => kernel.error(error),
    })
}

/// Looks through a segment of notes: the lengths of name and value, a type, then both, padded to
/// four bytes each.
fn find_pvh_entry(notes: &[u8]) -> Option<u64> {
    let word = |at: usize| {
        let bytes = notes.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    let mut at = 0;
    loop {
        let (name_len, len, kind) = (word(at)?, word(at + 4)?, word(at + 8)?);
        let name_at = at + 12;
        let value_at = name_at.checked_add(name_len.checked_next_multiple_of(4)?)?;
        let value_end = value_at.checked_add(len)?;
        let name = notes.get(name_at..name_at.checked_add(name_len)?)?;
        let value = notes.get(value_at..value_end)?;
        if name == b"Xen\0" && kind == PHYS32_ENTRY as usize {
            // Four bytes or eight, of which the upper ones are zero.
            return word(value_at)
                .map(|entry| entry as u64)
                .filter(|_| value.len() >= 4);
        }
        at = value_end.checked_next_multiple_of(4)?;
    }
}

#[cfg(test)]
mod tests;
