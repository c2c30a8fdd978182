//! What a guest starts with: put into memory at first, and again after every reset.

use std::sync::Arc;

use strata_devices::{acpi::tables::Tables, smbios::Smbios};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::{
    boot::{BootError, BootSource, RealModeKernel, Rom},
    cli::RunArgs,
    kvm::regs::Entry,
    layout,
};

/// Shutdown status: after a reset a BIOS ends the interrupt that was being served, and jumps to the
/// address at 40:67.
const JUMP_AFTER_EOI: u8 = 0x05;
/// The same without the end of an interrupt. The reset has ended it.
const JUMP: u8 = 0x0a;

/// What is booted.
pub enum Booted {
    /// A kernel, loaded as firmware and a boot loader would.
    Kernel(BootSource),
    /// What firmware finds: on the disks, or a kernel for which it does what a kernel of today does
    /// without.
    Firmware(Rom, Option<RealModeKernel>),
}

impl Booted {
    /// Opens the files.
    ///
    /// # Errors
    /// [`BootError`].
    pub fn open(args: &RunArgs) -> Result<Self, BootError> {
        let firmware = args.firmware.as_deref();
        let Some(kernel) = &args.kernel else {
            return Ok(Self::Firmware(Rom::open(firmware)?, None));
        };
        let (initrd, cmdline) = (args.initrd.as_deref(), &args.append);
        if firmware.is_none() && !RealModeKernel::is_needed(kernel)? {
            return BootSource::open(kernel, initrd, cmdline).map(Self::Kernel);
        }
        let rom = Rom::open(firmware).map_err(|error| match error {
            BootError::NoFirmware => BootError::NoFirmwareForKernel {
                kernel: kernel.clone(),
            },
            error => error,
        })?;
        let kernel = RealModeKernel::open(kernel, initrd, cmdline, args.machine.memory)?;
        Ok(Self::Firmware(rom, Some(kernel)))
    }

    /// Memory that the guest cannot write, if there is any.
    ///
    /// # Errors
    /// The host's.
    pub fn rom(&self) -> Result<Option<GuestMemoryMmap>, BootError> {
        match self {
            Self::Kernel(_) => Ok(None),
            Self::Firmware(rom, _) => rom.memory().map(Some),
        }
    }
}

/// What is booted, and where it goes.
pub struct Start {
    /// What is booted.
    pub booted: Booted,
    /// The guest's memory.
    pub memory: Arc<GuestMemoryMmap>,
    /// Its size in bytes.
    pub size: u64,
    /// ACPI tables, for a kernel; firmware has its own way to them.
    pub tables: Tables,
    /// What the machine says of itself, for a kernel, too.
    pub smbios: Vec<u8>,
}

impl Start {
    /// Puts it into memory; returns where the first vCPU starts.
    ///
    /// # Errors
    /// [`BootError`]; guest memory is in no particular state then.
    pub fn load(&mut self) -> Result<Entry, BootError> {
        match &mut self.booted {
            Booted::Kernel(source) => {
                let at = GuestAddress(self.tables.address);
                self.memory.write_slice(&self.tables.bytes, at)?;
                let at = GuestAddress(Smbios::ADDRESS);
                self.memory.write_slice(&self.smbios, at)?;
                source.load(&self.memory, self.size, self.tables.address)
            }
            Booted::Firmware(rom, _) => {
                rom.load_copy(&self.memory)?;
                Ok(Entry::ResetVector)
            }
        }
    }

    /// The same after a reset. `shutdown_status` is what the guest has left for a BIOS: its memory
    /// may be as it left it, and it goes on by itself.
    ///
    /// # Errors
    /// [`BootError`].
    pub fn start_again(&mut self, shutdown_status: u8) -> Result<Entry, BootError> {
        match (&self.booted, shutdown_status) {
            // Its copy below 1 MiB knows that it has run, and does what is wanted.
            (Booted::Firmware(..), 1..) => Ok(Entry::ResetVector),
            (Booted::Kernel(_), JUMP_AFTER_EOI | JUMP) => {
                let [offset, segment]: [u16; 2] = self
                    .memory
                    .read_obj(GuestAddress(layout::BIOS_WARM_START))?;
                Ok(Entry::RealMode { segment, offset })
            }
            _ => self.load(),
        }
    }

    /// Where the first vCPU goes on after the guest had suspended to memory; `None` if it has not
    /// said where that would be.
    ///
    /// # Errors
    /// [`BootError`].
    pub fn resume(&self) -> Result<Option<Entry>, BootError> {
        match self.booted {
            Booted::Kernel(_) => {
                let vector: u32 = self
                    .memory
                    .read_obj(GuestAddress(self.tables.waking_vector))?;
                // The segment begins at the address, but for what does not make a segment.
                let segment = u16::try_from(vector >> 4).ok().filter(|_| vector != 0);
                Ok(segment.map(|segment| Entry::RealMode {
                    segment,
                    offset: (vector & 0xf) as u16,
                }))
            }
            // Firmware sees to it.
            Booted::Firmware(..) => Ok(Some(Entry::ResetVector)),
        }
    }
}
