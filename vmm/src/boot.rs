//! Puts a Linux kernel, its initramfs and the boot parameters into guest memory, or firmware.
//!
//! `Documentation/arch/x86/boot.rst` of Linux. Where a kernel is given there is no firmware in the
//! machine: what a boot loader does happens here, again at every reset.

mod kernel;
mod params;
mod rom;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use strata_devices::legacy::i8042::I8042;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

pub use self::rom::Rom;
use crate::{kvm::regs, layout};

/// Why a guest cannot be booted; one line for people.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file could not be opened or read.
    #[error("could not {what} the {role} '{path}': {source}")]
    File {
        /// "open" or "read".
        what: &'static str,
        /// "kernel", "initrd" or "firmware".
        role: &'static str,
        /// The file.
        path: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// The kernel's file holds something else.
    #[error("'{path}' is not a kernel that can be booted: {why}")]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What it lacks, and what to give.
        why: String,
    },
    /// Nothing that could boot the disks.
    #[error(
        "no firmware was found to boot a disk with: install SeaBIOS (Debian: seabios, Fedora: \
         seabios-bin), give its file with --firmware FILE, or boot a kernel with --kernel FILE"
    )]
    NoFirmware,
    /// The firmware's file holds something else.
    #[error(
        "'{path}' is not firmware: it has {len} bytes, and firmware has a multiple of 64 KiB, \
         16 MiB at most"
    )]
    NotFirmware {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
    },
    /// Memory for the firmware.
    #[error("could not get memory for the firmware: {0}")]
    RomMemory(vm_memory::mmap::FromRangesError),
    /// Kernel and initrd do not fit.
    #[error(
        "the guest's memory of {have} MiB is too small for its kernel and initrd: \
         give at least --memory {need}M"
    )]
    TooSmall {
        /// MiB the guest has.
        have: u64,
        /// MiB it has to have for the two to fit.
        need: u64,
    },
    /// The command line does not fit.
    #[error("the kernel's command line has {len} bytes, but this kernel takes at most {limit}")]
    CommandLine {
        /// Bytes given.
        len: usize,
        /// Bytes taken.
        limit: usize,
    },
    /// The command line cannot be passed on.
    #[error("the kernel's command line contains a NUL byte")]
    CommandLineNul,
    /// A guest address is outside its memory; sizes have been checked before.
    #[error("could not write the guest's memory: {0}")]
    Memory(#[from] GuestMemoryError),
}

/// What to boot. The files stay open, so that a reset boots what the start booted.
pub struct BootSource {
    kernel: Source,
    initrd: Option<Source>,
    cmdline: String,
}

/// One open file.
struct Source {
    role: &'static str,
    path: PathBuf,
    file: File,
}

/// What the loaded kernel asks for.
struct Loaded {
    /// Where a 64-bit boot loader jumps to.
    entry: u64,
    /// First byte that neither the kernel nor its unpacking uses.
    end: u64,
    /// Last address that an initrd may use.
    initrd_max: u64,
    /// Bytes of command line, without the NUL.
    cmdline_max: usize,
    /// Set-up header for the zero page.
    header: linux_loader::loader::bootparam::setup_header,
}

impl Source {
    fn open(role: &'static str, path: &Path) -> Result<Self, BootError> {
        let source = |error| BootError::File {
            what: "open",
            role,
            path: path.to_owned(),
            source: error,
        };
        let file = File::open(path).map_err(source)?;
        if file.metadata().map_err(source)?.is_dir() {
            return Err(source(io::ErrorKind::IsADirectory.into()));
        }
        let path = path.to_owned();
        Ok(Self { role, path, file })
    }

    /// Bytes in the file.
    fn len(&self) -> Result<u64, BootError> {
        let metadata = self.file.metadata();
        metadata.map(|m| m.len()).map_err(|error| self.error(error))
    }

    /// Reading has failed.
    fn error(&self, source: io::Error) -> BootError {
        BootError::File {
            what: "read",
            role: self.role,
            path: self.path.clone(),
            source,
        }
    }
}

impl BootSource {
    /// Opens the files.
    ///
    /// # Errors
    /// [`BootError`] if one is missing or unreadable, or the kernel is none.
    pub fn open(kernel: &Path, initrd: Option<&Path>, cmdline: &str) -> Result<Self, BootError> {
        if cmdline.contains('\0') {
            return Err(BootError::CommandLineNul);
        }
        let mut kernel = Source::open("kernel", kernel)?;
        kernel::memory_needed(&mut kernel)?;
        Ok(Self {
            kernel,
            initrd: initrd
                .map(|path| Source::open("initrd", path))
                .transpose()?,
            cmdline: cmdline.to_owned(),
        })
    }

    /// Loads everything, and returns the entry point for [`regs::enter_long_mode`]. `size` is
    /// the guest's memory in bytes, `rsdp` the address of the ACPI root pointer.
    ///
    /// # Errors
    /// [`BootError`]; guest memory is in no particular state then.
    pub fn load(
        &mut self,
        memory: &GuestMemoryMmap,
        size: u64,
        rsdp: u64,
    ) -> Result<u64, BootError> {
        let low = size.min(layout::LOW_MEMORY_LIMIT);
        let initrd_len = self.initrd.as_ref().map_or(Ok(0), Source::len)?;
        let needed = kernel::memory_needed(&mut self.kernel)?;
        let all = needed.saturating_add(page_align(initrd_len));
        if all > low {
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            let (have, need) = (size >> 20, mib(all));
            return Err(BootError::TooSmall { have, need });
        }
        let loaded = kernel::load(&mut self.kernel, memory)?;
        if self.cmdline.len() > loaded.cmdline_max {
            let (len, limit) = (self.cmdline.len(), loaded.cmdline_max);
            return Err(BootError::CommandLine { len, limit });
        }
        let top = low.min(loaded.initrd_max.saturating_add(1));
        let initrd = self.load_initrd(memory, loaded.end, top, initrd_len, size)?;
        let mut cmdline = self.cmdline.clone().into_bytes();
        cmdline.push(0);
        memory.write_slice(&cmdline, GuestAddress(layout::CMDLINE))?;
        params::write(memory, size, &loaded, initrd, rsdp)?;
        regs::write_tables(memory)?;
        write_reset_stub(memory)?;
        Ok(loaded.entry)
    }

    /// Loads the initrd as high as the kernel allows; its address and length, both 0 without one.
    fn load_initrd(
        &mut self,
        memory: &GuestMemoryMmap,
        bottom: u64,
        top: u64,
        len: u64,
        size: u64,
    ) -> Result<(u64, u64), BootError> {
        let Some(initrd) = &mut self.initrd else {
            return Ok((0, 0));
        };
        let start = top.saturating_sub(len) & !0xfff;
        if start < bottom {
            let need = (bottom + page_align(len)).div_ceil(1 << 20);
            let have = size >> 20;
            return Err(BootError::TooSmall { have, need });
        }
        io::Seek::rewind(&mut initrd.file).map_err(|error| initrd.error(error))?;
        memory
            .read_exact_volatile_from(GuestAddress(start), &mut initrd.file, len as usize)
            .map_err(|error| initrd.error(io::Error::other(error)))?;
        Ok((start, len))
    }
}

/// What stands at the reset vectors: whoever gets there, by INIT or by a jump, wants the machine to
/// start again.
///
///     mov al, I8042::RESET
///     out I8042::COMMAND, al
///     hlt
///     jmp short -3
const RESET_STUB: [u8; 7] = [
    0xb0,
    I8042::RESET,
    0xe6,
    I8042::COMMAND as u8,
    0xf4,
    0xeb,
    0xfd,
];

fn write_reset_stub(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    layout::RESET_VECTORS
        .into_iter()
        .try_for_each(|vector| memory.write_slice(&RESET_STUB, GuestAddress(vector)))
}

/// Rounded up to whole pages.
fn page_align(len: u64) -> u64 {
    len.checked_next_multiple_of(4096).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
