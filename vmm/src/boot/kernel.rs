//! Tells kernels apart and loads them.

use std::{io, os::unix::fs::FileExt};

use linux_loader::loader::{BzImage, KernelLoader, bootparam::setup_header};
use vm_memory::{ByteValued, GuestAddress, GuestMemoryMmap};

use super::{BootError, Source, elf::Elf, multiboot::Multiboot};
use crate::layout::{self, below_4g};

/// Offset of the set-up header in a bzImage.
const HEADER: u64 = 0x1f1;
/// `HdrS`.
const HEADER_MAGIC: u32 = 0x5372_6448;
/// Oldest protocol whose header says how much memory a kernel needs to unpack itself: 2.10, Linux
/// 2.6.31. Older ones are for boot loaders that start them in real mode.
pub(super) const HEADER_VERSION: u16 = 0x020a;
/// Oldest protocol whose header says whether there is a 64-bit entry point: 2.12, Linux 3.8.
const HEADER_VERSION_64: u16 = 0x020c;
const XLF_KERNEL_64: u16 = 1;
/// Distance of the 64-bit entry point from where the kernel is loaded.
const ENTRY_64: u64 = 0x200;
/// What protocols from 2.06 on take (COMMAND_LINE_SIZE of x86, less the NUL).
const ELF_CMDLINE_MAX: usize = 2047;
/// Where an initrd ends at most with an ELF kernel, which does not say: the default of x86.
const ELF_INITRD_MAX: u64 = 0x7fff_ffff;
/// How a file begins that gzip has made.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// What a file is.
pub(super) enum Kind {
    /// Linux, with its own way of unpacking itself.
    BzImage(Box<setup_header>),
    /// Linux for x86-64, unpacked.
    Elf(Elf),
    /// Any kernel with a PVH entry point, which is at this address.
    Pvh(Elf, u64),
    /// Any kernel with a multiboot header.
    Multiboot(Multiboot),
}

/// What the loaded kernel asks for.
pub(super) struct Loaded {
    /// Where a boot loader jumps to.
    pub entry: u64,
    /// That is in long mode.
    pub is_64_bit: bool,
    /// First byte that neither the kernel nor its unpacking uses.
    pub end: u64,
    /// Last address that an initrd may use.
    pub initrd_max: u64,
    /// Bytes of command line, without the NUL.
    pub cmdline_max: usize,
    /// Set-up header for the zero page.
    pub header: setup_header,
}

impl Kind {
    /// Looks at the file's first bytes.
    ///
    /// # Errors
    /// It is nothing that can be booted.
    pub fn of(kernel: &Source) -> Result<Self, BootError> {
        let mut magic = [0; 4];
        let at_start = kernel.file.read_at(&mut magic, 0);
        let len = at_start.map_err(|error| kernel.error(error))?;
        if let Some(header) = setup_header(kernel)? {
            return bzimage(kernel, header);
        }
        if let Some(kernel) = Multiboot::find(kernel)? {
            return Ok(Self::Multiboot(kernel));
        }
        match magic {
            [0x7f, b'E', b'L', b'F'] => elf(kernel),
            [first, second, ..] if len >= 2 && [first, second] == GZIP => Err(not_a_kernel(
                kernel,
                "it is compressed with gzip: give what gunzip makes of it",
            )),
            _ => Err(not_a_kernel(kernel, WHAT_TO_GIVE)),
        }
    }

    /// Bytes of guest memory from address 0 on that the kernel itself needs.
    ///
    /// # Errors
    /// The file cannot be looked at.
    pub fn memory_needed(&self, kernel: &Source) -> Result<u64, BootError> {
        let end = match self {
            Self::BzImage(header) => end_of(header, kernel.len()?),
            Self::Elf(elf) | Self::Pvh(elf, _) => elf.end(),
            Self::Multiboot(multiboot) => multiboot.end(),
        };
        Ok(super::page_align(end))
    }

    /// Puts it into memory.
    ///
    /// # Errors
    /// The file cannot be read, or there is no memory.
    pub fn load(&self, kernel: &mut Source, memory: &GuestMemoryMmap) -> Result<Loaded, BootError> {
        let loaded = |entry, end| Loaded {
            entry,
            is_64_bit: false,
            end,
            initrd_max: ELF_INITRD_MAX,
            cmdline_max: ELF_CMDLINE_MAX,
            header: elf_header(),
        };
        match self {
            Self::BzImage(header) => load_bzimage(kernel, memory, header),
            Self::Elf(elf) => {
                elf.load(kernel, memory)?;
                Ok(Loaded {
                    is_64_bit: true,
                    ..loaded(elf.entry(), elf.end())
                })
            }
            Self::Pvh(elf, entry) => {
                elf.load(kernel, memory)?;
                Ok(loaded(*entry, elf.end()))
            }
            Self::Multiboot(multiboot) => {
                multiboot.load(kernel, memory)?;
                Ok(loaded(multiboot.entry(), multiboot.end()))
            }
        }
    }
}

fn load_bzimage(
    kernel: &mut Source,
    memory: &GuestMemoryMmap,
    header: &setup_header,
) -> Result<Loaded, BootError> {
    let end = end_of(header, kernel.len()?);
    let at = GuestAddress(layout::KERNEL);
    let loaded = BzImage::load(memory, Some(at), &mut kernel.file, None)
        .map_err(|error| not_a_kernel(kernel, error))?;
    let mut header = *header;
    header.code32_start = below_4g(layout::KERNEL);
    let is_64_bit = has_64_bit_entry(&header);
    let offset = if is_64_bit { ENTRY_64 } else { 0 };
    Ok(Loaded {
        entry: loaded.kernel_load.0 + offset,
        is_64_bit,
        end,
        initrd_max: header.initrd_addr_max.into(),
        cmdline_max: header.cmdline_size as usize,
        header,
    })
}

/// What a bzImage would say that was like a vmlinux.
fn elf_header() -> setup_header {
    setup_header {
        header: HEADER_MAGIC,
        boot_flag: 0xaa55,
        version: HEADER_VERSION_64,
        loadflags: 1,
        kernel_alignment: 0x20_0000,
        ..Default::default()
    }
}

pub(super) fn not_a_kernel(kernel: &Source, why: impl ToString) -> BootError {
    BootError::NotAKernel {
        path: kernel.path.clone(),
        why: why.to_string(),
    }
}

/// The header of a bzImage, if there is one.
pub(super) fn setup_header(kernel: &Source) -> Result<Option<setup_header>, BootError> {
    let mut header = setup_header::default();
    match kernel.file.read_exact_at(header.as_mut_slice(), HEADER) {
        Ok(()) if header.header == HEADER_MAGIC => Ok(Some(header)),
        Ok(()) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(kernel.error(error)),
    }
}

fn has_64_bit_entry(header: &setup_header) -> bool {
    let (version, flags) = (header.version, header.xloadflags);
    version >= HEADER_VERSION_64 && flags & XLF_KERNEL_64 != 0
}

fn bzimage(kernel: &Source, header: setup_header) -> Result<Kind, BootError> {
    let version = header.version;
    if version < HEADER_VERSION {
        let (major, minor) = (version >> 8, version & 0xff);
        let why = format!(
            "it needs a BIOS: its boot protocol, {major}.{minor:02}, has it started in real mode \
             (Linux does without since 2.6.31)"
        );
        return Err(not_a_kernel(kernel, why));
    }
    Ok(Kind::BzImage(Box::new(header)))
}

/// A file without a multiboot header.
fn elf(kernel: &Source) -> Result<Kind, BootError> {
    let elf = Elf::read(kernel)?;
    if elf.end() <= layout::EXTENDED {
        return Err(not_a_kernel(
            kernel,
            "it is an ELF file, but nothing in it is loaded above 1 MiB as a kernel is",
        ));
    }
    match elf.pvh_entry {
        Some(entry) => Ok(Kind::Pvh(elf, entry)),
        None if elf.is_64_bit => Ok(Kind::Elf(elf)),
        None => Err(not_a_kernel(
            kernel,
            "it is an ELF file for i386, but has neither a multiboot header nor a PVH entry",
        )),
    }
}

const WHAT_TO_GIVE: &str = "it is neither a bzImage (/boot/vmlinuz-...) nor an ELF vmlinux, and \
                            has no multiboot header";

/// First byte that neither a bzImage of `len` bytes nor its unpacking uses. It unpacks itself at
/// its preferred address, or where it is when that lies higher.
pub(super) fn end_of(header: &setup_header, len: u64) -> u64 {
    let start = layout::KERNEL.max(header.pref_address);
    let unpacked = start.saturating_add(header.init_size.into());
    unpacked.max(layout::KERNEL.saturating_add(len))
}
