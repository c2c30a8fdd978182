//! Tells kernels apart and loads them.

use std::{
    io::{self, Read, Seek},
    os::unix::fs::FileExt,
};

use linux_loader::loader::{BzImage, Elf, KernelLoader, bootparam::setup_header};
use vm_memory::{ByteValued, GuestAddress, GuestMemoryMmap};

use super::{BootError, Loaded, Source};
use crate::layout;

/// Offset of the set-up header in a bzImage.
const HEADER: u64 = 0x1f1;
/// `HdrS`.
const HEADER_MAGIC: u32 = 0x5372_6448;
/// Oldest protocol whose header says whether there is a 64-bit entry point: 2.12, Linux 3.8.
const HEADER_VERSION: u16 = 0x020c;
const XLF_KERNEL_64: u16 = 1;
/// Distance of the 64-bit entry point from where the kernel is loaded.
const ENTRY_64: u64 = 0x200;
/// What protocols from 2.06 on take (COMMAND_LINE_SIZE of x86, less the NUL).
const ELF_CMDLINE_MAX: usize = 2047;
/// Where an initrd ends at most with an ELF kernel, which does not say: the default of x86.
const ELF_INITRD_MAX: u64 = 0x7fff_ffff;
/// Program headers that a kernel can reasonably have.
const ELF_MAX_SEGMENTS: u16 = 64;

/// The two kinds of file.
enum Kind {
    BzImage(Box<setup_header>),
    /// End of its last segment.
    Elf(u64),
}

/// Bytes of guest memory from address 0 on that the kernel itself needs.
pub(super) fn memory_needed(kernel: &mut Source) -> Result<u64, BootError> {
    match recognise(kernel)? {
        Kind::BzImage(header) => end_of(&header, kernel.len()?),
        Kind::Elf(end) => Ok(end),
    }
    .map(super::page_align)
}

/// Loads it.
pub(super) fn load(kernel: &mut Source, memory: &GuestMemoryMmap) -> Result<Loaded, BootError> {
    match recognise(kernel)? {
        Kind::BzImage(header) => load_bzimage(kernel, memory, &header),
        Kind::Elf(end) => load_elf(kernel, memory, end),
    }
}

fn load_bzimage(
    kernel: &mut Source,
    memory: &GuestMemoryMmap,
    header: &setup_header,
) -> Result<Loaded, BootError> {
    let end = end_of(header, kernel.len()?)?;
    let at = GuestAddress(layout::KERNEL);
    let loaded = BzImage::load(memory, Some(at), &mut kernel.file, None)
        .map_err(|error| not_a_kernel(kernel, error))?;
    let mut header = *header;
    header.code32_start = layout::KERNEL as u32;
    Ok(Loaded {
        entry: loaded.kernel_load.0 + ENTRY_64,
        end,
        initrd_max: header.initrd_addr_max.into(),
        cmdline_max: header.cmdline_size as usize,
        header,
    })
}

fn load_elf(kernel: &mut Source, memory: &GuestMemoryMmap, end: u64) -> Result<Loaded, BootError> {
    let loaded = Elf::load(memory, None, &mut kernel.file, None)
        .map_err(|error| not_a_kernel(kernel, error))?;
    let header = setup_header {
        header: HEADER_MAGIC,
        boot_flag: 0xaa55,
        version: HEADER_VERSION,
        loadflags: 1,
        kernel_alignment: 0x20_0000,
        ..Default::default()
    };
    Ok(Loaded {
        entry: loaded.kernel_load.0,
        end,
        initrd_max: ELF_INITRD_MAX,
        cmdline_max: ELF_CMDLINE_MAX,
        header,
    })
}

fn not_a_kernel(kernel: &Source, why: impl ToString) -> BootError {
    BootError::NotAKernel {
        path: kernel.path.clone(),
        why: why.to_string(),
    }
}

/// Looks at the file's first bytes.
fn recognise(kernel: &mut Source) -> Result<Kind, BootError> {
    let mut magic = [0; 4];
    let at_start = kernel.file.read_at(&mut magic, 0);
    if at_start.map_err(|error| kernel.error(error))? == 4 && magic == *b"\x7fELF" {
        return elf_end(kernel).map(Kind::Elf);
    }
    let mut header = setup_header::default();
    match kernel.file.read_exact_at(header.as_mut_slice(), HEADER) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(not_a_kernel(kernel, WHAT_TO_GIVE));
        }
        Err(error) => return Err(kernel.error(error)),
    }
    let (version, flags) = (header.version, header.xloadflags);
    if header.header != HEADER_MAGIC {
        return Err(not_a_kernel(kernel, WHAT_TO_GIVE));
    }
    if version < HEADER_VERSION || flags & XLF_KERNEL_64 == 0 {
        return Err(not_a_kernel(
            kernel,
            "it has no 64-bit entry point (an x86-64 kernel, Linux 3.8 or later, has one)",
        ));
    }
    Ok(Kind::BzImage(Box::new(header)))
}

const WHAT_TO_GIVE: &str = "it is neither a bzImage (/boot/vmlinuz-...) nor an ELF vmlinux";

/// First byte that neither a bzImage of `len` bytes nor its unpacking uses. It unpacks itself at
/// its preferred address, or where it is when that lies higher.
fn end_of(header: &setup_header, len: u64) -> Result<u64, BootError> {
    let start = layout::KERNEL.max(header.pref_address);
    let unpacked = start.saturating_add(header.init_size.into());
    Ok(unpacked.max(layout::KERNEL.saturating_add(len)))
}

/// Checks what the loader takes for granted of an ELF file, and finds the end of what it loads.
fn elf_end(kernel: &mut Source) -> Result<u64, BootError> {
    use linux_loader::loader::elf::Error as ElfError;

    let mut header = [0; 64];
    let bad = |kernel: &Source, error: ElfError| Err(not_a_kernel(kernel, error));
    kernel
        .file
        .rewind()
        .and_then(|()| kernel.file.read_exact(&mut header))
        .map_err(|error| not_a_kernel(kernel, error))?;
    let (table, entry_size) = (u64_at(&header, 32), u16_at(&header, 54));
    let segments = u16_at(&header, 56);
    if header[4] != 2 || u16_at(&header, 18) != 62 {
        return Err(not_a_kernel(
            kernel,
            "it is an ELF file, but not one for x86-64",
        ));
    }
    if entry_size != 56 || segments > ELF_MAX_SEGMENTS {
        return bad(kernel, ElfError::InvalidProgramHeaderSize);
    }
    let mut end = 0;
    for index in 0..u64::from(segments) {
        let mut entry = [0; 56];
        let offset = table.saturating_add(index * 56);
        if kernel.file.read_exact_at(&mut entry, offset).is_err() {
            return bad(kernel, ElfError::ReadProgramHeader);
        }
        let loadable = entry[..4] == [1, 0, 0, 0];
        if loadable {
            let (address, len) = (u64_at(&entry, 24), u64_at(&entry, 40));
            end = end.max(address.saturating_add(len));
        }
    }
    if end <= layout::EXTENDED {
        return Err(not_a_kernel(
            kernel,
            "it is an ELF file, but nothing in it is loaded above 1 MiB as a kernel is",
        ));
    }
    Ok(end)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}
