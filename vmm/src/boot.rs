//! Puts a kernel, its initramfs and the boot parameters into guest memory, or firmware.
//!
//! Linux is started as its `Documentation/arch/x86/boot.rst` says, other kernels by PVH or
//! multiboot. In their machines there is no firmware: what a boot loader does happens here, again
//! at every reset. Only kernels that are started in real mode are left to firmware.

mod elf;
mod kernel;
mod multiboot;
mod params;
mod pvh;
mod real_mode;
mod rom;

use std::{
    ffi::OsStr,
    fs::File,
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use strata_devices::legacy::i8042::I8042;
use strata_exec::mem::to_usize;
use strata_storage::split_options;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use self::{
    kernel::{Kind, Loaded},
    multiboot::Multiboot,
};
pub use self::{real_mode::RealModeKernel, rom::Rom};
use crate::{
    kvm::regs::{self, Entry, Registers},
    layout,
};

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
    /// Nothing that could start a kernel in real mode.
    #[error(
        "'{kernel}' needs a BIOS, as it is started in real mode, and no firmware was found: \
         install SeaBIOS (Debian: seabios, Fedora: seabios-bin), or give its file with \
         --firmware FILE"
    )]
    NoFirmwareForKernel {
        /// The kernel's file.
        kernel: PathBuf,
    },
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
    modules: Vec<Module>,
    cmdline: String,
}

/// One open file.
struct Source {
    role: &'static str,
    path: PathBuf,
    file: File,
}

/// A file that goes into memory beside the kernel.
struct Module {
    source: Source,
    /// What is passed to a multiboot kernel of it: its name, and more words.
    text: Vec<u8>,
}

/// Where a module lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Placed {
    start: u64,
    len: u64,
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

    /// Puts all of it at `start`.
    fn load(&mut self, memory: &GuestMemoryMmap, start: u64) -> Result<Placed, BootError> {
        let len = self.len()?;
        let rewound = io::Seek::rewind(&mut self.file);
        rewound.map_err(|error| self.error(error))?;
        memory
            .read_exact_volatile_from(GuestAddress(start), &mut self.file, to_usize(len))
            .map_err(|error| self.error(io::Error::other(error)))?;
        Ok(Placed { start, len })
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
    /// Opens the files. For a multiboot kernel `initrd` is a list of modules, with commas between
    /// them, and words for each behind its name.
    ///
    /// # Errors
    /// [`BootError`] if one is missing or unreadable, or the kernel is none.
    pub fn open(kernel: &Path, initrd: Option<&Path>, cmdline: &str) -> Result<Self, BootError> {
        check_no_nul(cmdline)?;
        let kernel = Source::open("kernel", kernel)?;
        let modules = match (Kind::of(&kernel)?, initrd) {
            (_, None) => Vec::new(),
            (Kind::Multiboot(_), Some(list)) => Module::open_all(list.as_os_str())?,
            (_, Some(path)) => vec![Module::open(path)?],
        };
        Ok(Self {
            kernel,
            modules,
            cmdline: cmdline.to_owned(),
        })
    }

    /// Loads everything, and returns where and how the first vCPU starts. `size` is the guest's
    /// memory in bytes, `rsdp` the address of the ACPI root pointer.
    ///
    /// # Errors
    /// [`BootError`]; guest memory is in no particular state then.
    pub fn load(
        &mut self,
        memory: &GuestMemoryMmap,
        size: u64,
        rsdp: u64,
    ) -> Result<Entry, BootError> {
        let low = layout::low_memory(size);
        let kind = Kind::of(&self.kernel)?;
        let mut needed = kind.memory_needed(&self.kernel)?;
        for module in &self.modules {
            needed = needed.saturating_add(page_align(module.source.len()?));
        }
        if needed > low {
            return Err(too_small(size, needed));
        }
        let loaded = kind.load(&mut self.kernel, memory)?;
        check_length(&self.cmdline, loaded.cmdline_max)?;
        let entry = match &kind {
            Kind::Multiboot(multiboot) => self.hand_over_multiboot(memory, size, multiboot)?,
            Kind::BzImage(_) | Kind::Elf(_) => {
                let initrd = self.load_initrd(memory, &loaded, size)?;
                self.write_cmdline(memory)?;
                params::write(memory, size, &loaded, initrd, rsdp)?;
                if loaded.is_64_bit {
                    Entry::LongMode(loaded.entry)
                } else {
                    Entry::ProtectedMode(Registers {
                        eip: loaded.entry,
                        esi: layout::ZERO_PAGE,
                        ..Registers::default()
                    })
                }
            }
            Kind::Pvh(..) => {
                let initrd = self.load_initrd(memory, &loaded, size)?;
                self.write_cmdline(memory)?;
                let modules: Vec<_> = initrd.into_iter().collect();
                let info = pvh::write(memory, size, &modules, rsdp)?;
                Entry::ProtectedMode(Registers {
                    eip: loaded.entry,
                    ebx: info,
                    ..Registers::default()
                })
            }
        };
        regs::write_tables(memory, entry)?;
        write_reset_stub(memory)?;
        write_bios_data(memory)?;
        Ok(entry)
    }

    /// Loads the modules of a multiboot kernel, one behind the other, and lists them for it.
    fn hand_over_multiboot(
        &mut self,
        memory: &GuestMemoryMmap,
        size: u64,
        kernel: &Multiboot,
    ) -> Result<Entry, BootError> {
        let mut end = page_align(kernel.end());
        let mut modules: Vec<(Placed, &[u8])> = Vec::new();
        for module in &mut self.modules {
            let placed = module.source.load(memory, end)?;
            end = page_align(placed.start + placed.len);
            modules.push((placed, &module.text));
        }
        // As with boot loaders, its first word is the kernel's own name.
        let path = self.kernel.path.as_os_str().as_bytes();
        let cmdline = [path, b" ", self.cmdline.as_bytes()].concat();
        let info = kernel.write_info(memory, size, &cmdline, &modules, end)?;
        Ok(Entry::ProtectedMode(Registers {
            eip: kernel.entry(),
            eax: multiboot::MAGIC.into(),
            ebx: info,
            ..Registers::default()
        }))
    }

    fn write_cmdline(&self, memory: &GuestMemoryMmap) -> Result<(), BootError> {
        let mut cmdline = self.cmdline.clone().into_bytes();
        cmdline.push(0);
        Ok(memory.write_slice(&cmdline, GuestAddress(layout::CMDLINE))?)
    }

    /// Loads the initrd as high as the kernel allows.
    fn load_initrd(
        &mut self,
        memory: &GuestMemoryMmap,
        loaded: &Loaded,
        size: u64,
    ) -> Result<Option<Placed>, BootError> {
        let Some(Module { source, .. }) = self.modules.first_mut() else {
            return Ok(None);
        };
        let len = source.len()?;
        let low = layout::low_memory(size);
        let top = low.min(loaded.initrd_max.saturating_add(1));
        let start = place_below(top, len, loaded.end)
            .ok_or_else(|| too_small(size, loaded.end + page_align(len)))?;
        source.load(memory, start).map(Some)
    }
}

fn check_no_nul(cmdline: &str) -> Result<(), BootError> {
    if cmdline.contains('\0') {
        return Err(BootError::CommandLineNul);
    }
    Ok(())
}

fn check_length(cmdline: &str, limit: usize) -> Result<(), BootError> {
    let len = cmdline.len();
    if len > limit {
        return Err(BootError::CommandLine { len, limit });
    }
    Ok(())
}

/// Where an initrd of `len` bytes goes: at a page, as high below `top` as it may, and not below
/// `end`, where the kernel ends.
fn place_below(top: u64, len: u64, end: u64) -> Option<u64> {
    let start = top.saturating_sub(len) & !0xfff;
    (start >= end).then_some(start)
}

fn too_small(size: u64, need: u64) -> BootError {
    let (have, need) = (size >> 20, need.div_ceil(1 << 20));
    BootError::TooSmall { have, need }
}

impl Module {
    fn open(path: &Path) -> Result<Self, BootError> {
        Ok(Self {
            source: Source::open("initrd", path)?,
            text: path.as_os_str().as_bytes().to_owned(),
        })
    }

    /// `FILE WORDS,FILE WORDS`; a comma that belongs to a name or a word is doubled.
    fn open_all(list: &OsStr) -> Result<Vec<Self>, BootError> {
        split_options(list)
            .into_iter()
            .map(|text| {
                let text = text.into_vec();
                let name = text.split(|&byte| byte == b' ').next().unwrap_or_default();
                let source = Source::open("initrd", Path::new(OsStr::from_bytes(name)))?;
                Ok(Self { source, text })
            })
            .collect()
    }
}

/// What stands at the reset vectors: a processor that gets there, by INIT or by a jump, wants it to
/// start again.
///
/// ```text
/// mov al, I8042::RESET
/// out I8042::COMMAND, al
/// hlt
/// jmp short -3
/// ```
const RESET_STUB: [u8; 7] = {
    // The instruction has the port in a byte.
    const COMMAND_PORT: u8 = I8042::COMMAND.to_le_bytes()[0];
    const _: () = assert!(I8042::COMMAND < 0x100);
    [0xb0, I8042::RESET, 0xe6, COMMAND_PORT, 0xf4, 0xeb, 0xfd]
};

fn write_reset_stub(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    layout::RESET_VECTORS
        .into_iter()
        .try_for_each(|vector| memory.write_slice(&RESET_STUB, GuestAddress(vector)))
}

/// Says what of a BIOS's data kernels look for without one: where conventional memory ends. Xen
/// puts its code for real mode there, whatever else it was told.
fn write_bios_data(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    let (segment, kib) = (layout::EBDA_SEGMENT, layout::EBDA_SEGMENT >> 6);
    memory.write_obj(segment, GuestAddress(layout::BIOS_EBDA_SEGMENT))?;
    memory.write_obj(kib, GuestAddress(layout::BIOS_MEMORY_KIB))
}

/// Rounded up to whole pages.
fn page_align(len: u64) -> u64 {
    len.checked_next_multiple_of(4096).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
