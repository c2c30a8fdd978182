//! PIIX3 IDE (82371SB function 1): two channels with two ATA or ATAPI drives each, and their bus
//! master.
//!
//! [`IdeController`] is the front half: the fixed ports, which [`IdeController::insert_ports`] puts
//! on the bus, and the PCI function with the bus master's registers. [`IdeWorkerParts`] become the
//! worker half on the device thread. The halves share each channel's registers behind a mutex:
//!
//! ```text
//! vCPU thread                        device thread
//! register write ──▶ Channel ──Job──▶ IdeWorker ──Request──▶ Disk
//! interrupt ◀─────── Channel ◀─finish────┘◀──────completion───┘
//! ```

mod bus_master;
mod cdrom;
mod channel;
mod command;
mod drive;
mod function;
mod identify;
mod ports;
mod smart;
mod taskfile;
mod worker;

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use strata_block::disk::DiskInfo;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use self::{
    channel::Channel,
    drive::Drive,
    function::Function,
    ports::{CommandPorts, ControlPort},
};
pub use self::{
    drive::{DriveOptions, Media},
    worker::{IdeWorker, IdeWorkerParts},
};
use crate::{
    bus::{Bus, Overlap},
    host::IrqLine,
    pci::SharedPciDevice,
};

/// The ISA interrupts of the two channels.
pub const IRQS: [u32; 2] = [14, 15];
/// Ports that the bus master BAR decodes.
pub const BUS_MASTER_LEN: u64 = 16;

/// First ports of the channels' command blocks.
const COMMAND_BLOCKS: [u64; 2] = [0x1f0, 0x170];
/// The channels' control ports.
const CONTROL_PORTS: [u64; 2] = [0x3f6, 0x376];

/// The front half.
pub struct IdeController {
    channels: [Arc<Mutex<Channel>>; 2],
    function: Arc<Mutex<Function>>,
}

impl IdeController {
    /// A controller with the drives that `disks` describe (primary master and slave, then
    /// secondary), as `DriveOptions` say, which raises `lines` ([`IRQS`]) and whose bus master BAR
    /// is at the port `bus_master` ([`BUS_MASTER_LEN`] ports).
    ///
    /// # Errors
    /// If the host has no eventfd left.
    pub fn new(
        disks: [Option<(&DiskInfo, DriveOptions)>; 4],
        memory: Arc<GuestMemoryMmap>,
        lines: [Arc<dyn IrqLine>; 2],
        bus_master: u16,
    ) -> io::Result<(Self, IdeWorkerParts)> {
        let doorbell = EventFd::new(EFD_NONBLOCK)?;
        let drive =
            |place: usize| disks[place].map(|(info, options)| Drive::new(info, options, place));
        let [first, second] = lines;
        let channel = |at: usize, line| -> io::Result<_> {
            let drives = [drive(2 * at), drive(2 * at + 1)];
            let channel = Channel::new(drives, line, doorbell.try_clone()?);
            Ok(Arc::new(Mutex::new(channel)))
        };
        let channels = [channel(0, first)?, channel(1, second)?];
        let function = Function::new(channels.clone(), bus_master);
        let parts = IdeWorkerParts {
            channels: channels.clone(),
            doorbell,
            memory,
        };
        let function = Arc::new(Mutex::new(function));
        Ok((Self { channels, function }, parts))
    }

    /// The PCI function, for [`crate::pci::bridges::IDE_FUNCTION`]. Its reset resets the drives,
    /// too.
    pub fn function(&self) -> SharedPciDevice {
        self.function.clone()
    }

    /// Puts the channels' fixed ports on the bus.
    ///
    /// # Errors
    /// If another device has one of them.
    pub fn insert_ports(&self, ports: &mut Bus) -> Result<(), Overlap> {
        for (at, channel) in self.channels.iter().enumerate() {
            let command = CommandPorts(channel.clone());
            let control = ControlPort(channel.clone());
            let shared = Arc::new(Mutex::new(command));
            ports.insert(COMMAND_BLOCKS[at], CommandPorts::LEN, shared)?;
            ports.insert(
                CONTROL_PORTS[at],
                ControlPort::LEN,
                Arc::new(Mutex::new(control)),
            )?;
        }
        Ok(())
    }
}

fn lock(channel: &Mutex<Channel>) -> MutexGuard<'_, Channel> {
    channel.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
