//! An ELF core of the guest's memory, as QEMU's `dump-guest-memory` writes it and `crash` and `gdb`
//! read it: a `PT_LOAD` for each region of memory, and the processors' registers as notes.
//!
//! Pages of zeros are holes in the file.

mod mappings;
mod notes;

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::unix::fs::FileExt,
    path::Path,
};

use object::{
    LittleEndian, U16, U32, U64, bytes_of,
    elf::{
        ELFCLASS64, ELFDATA2LSB, ELFMAG, ELFOSABI_NONE, EM_X86_64, ET_CORE, EV_CURRENT, FileFlags,
        FileHeader64, Ident, PF_R, PF_W, PF_X, PT_LOAD, PT_NOTE, ProgramFlags, ProgramHeader64,
        SymbolSection,
    },
    slice_from_all_bytes,
};
use strata_exec::mem::to_usize;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use self::mappings::Mapping;
use crate::machine::Registers;

/// What is read of memory at a time, in bytes.
const PIECE: usize = 1 << 20;
/// What is a hole or not, in bytes. Memory begins at a multiple in the file.
const PAGE: usize = 4096;

/// Whether memory is also found where the guest's kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses {
    /// At its physical addresses alone, which is all that `crash` needs.
    Physical,
    /// At those that the page tables give the kernel, too, for `gdb`.
    Kernel,
}

/// A region of memory, and its place in the file.
struct Region {
    start: u64,
    len: u64,
    offset: u64,
}

/// Writes a core of a machine that stands still into a new file, which takes the place of an older
/// one. What has been written of it is removed after an error.
///
/// # Errors
/// The host's.
pub fn write(
    path: &Path,
    memory: &GuestMemoryMmap,
    cpus: &[Registers],
    addresses: Addresses,
) -> io::Result<()> {
    let file = File::create(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    let written = write_into(&file, memory, cpus, addresses);
    if written.is_err() {
        // What is left would be taken for a core, and the disk may be full.
        let _ = fs::remove_file(path);
    }
    written
}

fn write_into(
    file: &File,
    memory: &GuestMemoryMmap,
    cpus: &[Registers],
    addresses: Addresses,
) -> io::Result<()> {
    let mappings = match addresses {
        Addresses::Physical => Vec::new(),
        Addresses::Kernel => mappings::of_kernel(memory, cpus),
    };
    let notes = notes::of(cpus);
    let regions = memory.iter().count();
    let head = head_len(regions + mappings.len());
    let data = (head + notes.len()).next_multiple_of(PAGE) as u64;
    let regions = place(memory, data);
    let end = regions.last().map_or(data, |last| last.offset + last.len);
    file.set_len(end)?;

    let mut bytes = Vec::with_capacity(to_usize(data));
    let count = 1 + regions.len() + mappings.len();
    bytes.extend(bytes_of(&file_header(count)));
    bytes.extend(bytes_of(&note_header(head as u64, notes.len() as u64)));
    for region in &regions {
        let whole = Mapping {
            linear: region.start,
            physical: region.start,
            len: region.len,
        };
        bytes.extend(bytes_of(&load_header(&whole, region.offset)));
    }
    for mapping in &mappings {
        // The walk has looked that they lie in one.
        let within = |region: &&Region| {
            (region.start..region.start + region.len).contains(&mapping.physical)
        };
        let region = regions.iter().find(within);
        let offset = region.map_or(0, |region| region.offset + mapping.physical - region.start);
        bytes.extend(bytes_of(&load_header(mapping, offset)));
    }
    bytes.extend(notes);
    file.write_all_at(&bytes, 0)?;
    for region in &regions {
        write_region(file, memory, region)?;
    }
    Ok(())
}

/// Bytes before the notes, with so many `PT_LOAD`.
fn head_len(loads: usize) -> usize {
    let header = size_of::<FileHeader64<LittleEndian>>();
    header + (1 + loads) * size_of::<ProgramHeader64<LittleEndian>>()
}

/// Where the regions go, from `offset` on.
fn place(memory: &GuestMemoryMmap, mut offset: u64) -> Vec<Region> {
    let regions = memory.iter().map(|region| {
        let region = Region {
            start: region.start_addr().0,
            len: region.len(),
            offset,
        };
        offset += region.len.next_multiple_of(PAGE as u64);
        region
    });
    regions.collect()
}

/// Writes what is not zero.
fn write_region(file: &File, memory: &GuestMemoryMmap, region: &Region) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    let mut done = 0;
    while done < region.len {
        let len = to_usize(region.len - done).min(PIECE);
        let piece = &mut piece[..len];
        memory
            .read_slice(piece, GuestAddress(region.start + done))
            .map_err(io::Error::other)?;
        for (at, run) in runs_of_data(piece) {
            file.write_all_at(run, region.offset + done + at as u64)?;
        }
        done += len as u64;
    }
    Ok(())
}

/// The runs of pages that hold something else than zeros, and where they begin.
fn runs_of_data(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let is_zero = |page: &[u8]| match slice_from_all_bytes::<[u8; 8]>(page) {
        Ok(words) => words.iter().all(|word| *word == [0; 8]),
        Err(()) => page.iter().all(|byte| *byte == 0),
    };
    let mut pages = bytes.chunks(PAGE).enumerate().peekable();
    std::iter::from_fn(move || {
        let (first, _) = pages.find(|(_, page)| !is_zero(page))?;
        let mut end = first + 1;
        while pages.next_if(|(_, page)| !is_zero(page)).is_some() {
            end += 1;
        }
        let (start, end) = (first * PAGE, (end * PAGE).min(bytes.len()));
        Some((start, &bytes[start..end]))
    })
}

fn file_header(program_headers: usize) -> FileHeader64<LittleEndian> {
    let endian = LittleEndian;
    let half = |value| {
        U16::new(
            endian,
            u16::try_from(value).expect("headers are short and few"),
        )
    };
    FileHeader64 {
        e_ident: Ident {
            magic: ELFMAG,
            class: ELFCLASS64,
            data: ELFDATA2LSB,
            version: EV_CURRENT,
            os_abi: ELFOSABI_NONE,
            abi_version: 0,
            padding: [0; 7],
        },
        e_type: U16::new(endian, ET_CORE),
        e_machine: U16::new(endian, EM_X86_64),
        e_version: U32::new(endian, EV_CURRENT.0.into()),
        e_entry: U64::new(endian, 0),
        e_phoff: U64::new(endian, size_of::<FileHeader64<LittleEndian>>() as u64),
        e_shoff: U64::new(endian, 0),
        e_flags: U32::new(endian, FileFlags(0)),
        e_ehsize: half(size_of::<FileHeader64<LittleEndian>>()),
        e_phentsize: half(size_of::<ProgramHeader64<LittleEndian>>()),
        // The walk through page tables has its bound, and regions are few.
        e_phnum: half(program_headers),
        e_shentsize: U16::new(endian, 0),
        e_shnum: U16::new(endian, 0),
        e_shstrndx: U16::new(endian, SymbolSection(0)),
    }
}

fn note_header(offset: u64, len: u64) -> ProgramHeader64<LittleEndian> {
    let endian = LittleEndian;
    ProgramHeader64 {
        p_type: U32::new(endian, PT_NOTE),
        p_flags: U32::new(endian, ProgramFlags(0)),
        p_offset: U64::new(endian, offset),
        p_vaddr: U64::new(endian, 0),
        p_paddr: U64::new(endian, 0),
        p_filesz: U64::new(endian, len),
        p_memsz: U64::new(endian, len),
        p_align: U64::new(endian, 0),
    }
}

fn load_header(mapping: &Mapping, offset: u64) -> ProgramHeader64<LittleEndian> {
    let endian = LittleEndian;
    ProgramHeader64 {
        p_type: U32::new(endian, PT_LOAD),
        p_flags: U32::new(endian, PF_R | PF_W | PF_X),
        p_offset: U64::new(endian, offset),
        p_vaddr: U64::new(endian, mapping.linear),
        p_paddr: U64::new(endian, mapping.physical),
        p_filesz: U64::new(endian, mapping.len),
        p_memsz: U64::new(endian, mapping.len),
        p_align: U64::new(endian, 0),
    }
}

#[cfg(test)]
mod tests;
