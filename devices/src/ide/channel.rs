//! One channel: two drives on a cable, the interrupt, and the bus master engine in front of them.
//!
//! Everything here happens under the channel's mutex, on a vCPU thread (register accesses) or on
//! the device thread (a request has ended). Neither waits for a disk: what needs one becomes a
//! [`Job`], of which there is at most one, and the channel is busy until the worker has finished
//! it.

mod commands;
mod disc;
mod packet;
mod smart;
mod transfer;

use std::sync::Arc;

use bitflags::bitflags;
use strata_block::disk::Op;
use strata_exec::mem::SgList;
use vmm_sys_util::eventfd::EventFd;

use self::{packet::Session, transfer::Transfer};
use super::{
    bus_master::{BusMaster, Change, TableEnd},
    cdrom::Packet,
    command::DEVICE_RESET,
    drive::Drive,
    taskfile::{Status, TaskFile, port},
};
use crate::host::IrqLine;

bitflags! {
    /// The device control register (ATA/ATAPI-6, 7.9).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Control: u8 {
        /// Interrupts are off.
        const NO_INTERRUPT = 1 << 1;
        /// Software reset, for as long as it is set.
        const RESET = 1 << 2;
        /// Reads show the previous values of the registers.
        const HIGH_ORDER = 1 << 7;
    }
}

/// What a channel is doing.
#[derive(Debug)]
enum Phase {
    /// Waiting for a command.
    Idle,
    /// In reset, until the guest ends it and nothing is in flight any more.
    Reset,
    /// The guest reads the block from the data port; `then` is what is left of the command.
    In {
        block: Vec<u8>,
        at: usize,
        then: Option<Transfer>,
    },
    /// The guest writes the block to the data port.
    Out {
        block: Vec<u8>,
        at: usize,
        transfer: Transfer,
    },
    /// The drive waits for the bus master.
    Dma(Transfer),
    /// The guest writes a packet to the data port.
    Packet {
        session: Session,
        packet: Packet,
        at: usize,
    },
    /// The guest reads a packet command's reply from the data port, in blocks that end at `end`.
    PacketIn {
        session: Session,
        data: Vec<u8>,
        at: usize,
        end: usize,
    },
    /// A packet command's reply waits for the bus master.
    PacketDma { session: Session, payload: Payload },
    /// A CD drive resets itself once nothing is in flight any more.
    DeviceReset,
    /// The worker has it.
    Busy(Pending),
}

/// What a job's end is for.
#[derive(Debug, Clone)]
enum Pending {
    /// A command that moves no data.
    Command,
    /// What is left of one that does.
    Transfer(Transfer),
    /// What is left of a PACKET command.
    Packet(Session),
}

/// Work for the device thread.
#[derive(Debug)]
pub struct Job {
    /// The drive, 0 or 1.
    pub drive: usize,
    /// What to do.
    pub work: Work,
}

/// What a [`Job`] does. Sectors are of 512 bytes.
#[derive(Debug)]
pub enum Work {
    /// Read into a buffer and return it.
    Read {
        /// First sector.
        sector: u64,
        /// Sectors.
        count: u32,
    },
    /// Write a buffer.
    Write {
        /// First sector.
        sector: u64,
        /// The bytes.
        data: SgList,
        /// Durable before it completes.
        fua: bool,
    },
    /// Flush.
    Flush,
    /// Move data between the drive and guest memory.
    Dma(Move),
    /// Discard the ranges that guest memory lists.
    Trim {
        /// Blocks of 512 bytes with ranges.
        blocks: u32,
        /// Guest physical address of the descriptor table.
        table: u32,
    },
    /// Read blocks of a disc into a buffer and return it.
    ReadDisc {
        /// First block, of 2,048 bytes.
        first: u32,
        /// Blocks.
        count: u32,
    },
    /// Move a packet command's reply to guest memory.
    PacketDma {
        /// What.
        payload: Payload,
        /// Guest physical address of the descriptor table.
        table: u32,
    },
}

/// A packet command's reply.
#[derive(Debug)]
pub enum Payload {
    /// Bytes that the drive has made up.
    Bytes(Vec<u8>),
    /// Blocks of the disc.
    Disc {
        /// First block, of 2,048 bytes.
        first: u32,
        /// Blocks.
        count: u32,
    },
}

/// What the bus master is to move.
#[derive(Debug)]
pub struct Move {
    /// A read or a write, as the drive sees it.
    pub op: Op,
    /// First sector.
    pub sector: u64,
    /// Sectors.
    pub count: u32,
    /// Guest physical address of the descriptor table.
    pub table: u32,
}

/// How a job ended well.
#[derive(Debug)]
pub enum Reply {
    /// Done.
    Done,
    /// What was read.
    Data(SgList),
    /// The bus master has moved `sectors`, which may be fewer than asked for.
    Moved {
        /// Sectors, or blocks of ranges; 0 for a packet command.
        sectors: u32,
        /// How far the descriptor table reached.
        end: TableEnd,
    },
}

/// How a job ended.
pub type Outcome = Result<Reply, strata_storage::error::IoError>;

/// The channel.
pub struct Channel {
    drives: [Option<Drive>; 2],
    /// The drive that the device register selects.
    selected: usize,
    /// The drive whose command is under way.
    active: usize,
    control: Control,
    phase: Phase,
    bus_master: BusMaster,
    /// PCI lets the function access memory.
    mastering: bool,
    /// The drive wants its interrupt.
    interrupt: bool,
    line_is_high: bool,
    line: Arc<dyn IrqLine>,
    /// Wakes the worker.
    doorbell: EventFd,
    job: Option<Job>,
    in_flight: bool,
}

impl Channel {
    /// A channel with `drives` that raises `line`, and rings `doorbell` when there is a job.
    pub fn new(drives: [Option<Drive>; 2], line: Arc<dyn IrqLine>, doorbell: EventFd) -> Self {
        let present = [drives[0].is_some(), drives[1].is_some()];
        Self {
            drives,
            selected: 0,
            active: 0,
            control: Control::empty(),
            phase: Phase::Idle,
            bus_master: BusMaster::new(present),
            mastering: false,
            interrupt: false,
            line_is_high: false,
            line,
            doorbell,
            job: None,
            in_flight: false,
        }
    }

    /// Whether a drive is attached.
    pub fn has_drives(&self) -> bool {
        self.drives.iter().any(Option::is_some)
    }

    /// The drives have these numbers of sectors from now on.
    pub fn set_sectors(&mut self, sectors: [Option<u64>; 2]) {
        for (drive, sectors) in self.drives.iter_mut().zip(sectors) {
            if let (Some(drive), Some(sectors)) = (drive, sectors) {
                drive.sectors = sectors;
            }
        }
    }

    /// Machine reset: everything as after power-on. A job that has not been started is forgotten;
    /// one that is in flight keeps the channel busy until it has ended.
    pub fn power_on(&mut self) {
        self.start_again(Drive::power_on);
    }

    /// The same for a guest that had suspended to memory.
    pub fn wake_up(&mut self) {
        self.start_again(Drive::wake_up);
    }

    fn start_again(&mut self, start: fn(&mut Drive)) {
        let present = [self.drives[0].is_some(), self.drives[1].is_some()];
        self.control = Control::empty();
        self.bus_master = BusMaster::new(present);
        self.drives.iter_mut().flatten().for_each(start);
        self.enter_reset();
        self.leave_reset();
    }

    /// The guest reads a register of the command block other than data.
    pub fn read_register(&mut self, register: u64) -> u8 {
        let previous = self.control.contains(Control::HIGH_ORDER);
        match &self.drives[self.selected] {
            None => 0,
            Some(_) if register == port::STATUS => {
                self.interrupt = false;
                self.update_line();
                self.status()
            }
            Some(drive) => drive.file.read(register, previous),
        }
    }

    /// The guest writes a register of the command block other than data.
    pub fn write_register(&mut self, register: u64, value: u8) {
        if self.is_busy() {
            let is_own = self.selected == self.active && matches!(self.phase, Phase::Busy(_));
            let cdrom = self.drives[self.selected]
                .as_ref()
                .is_some_and(|d| d.cdrom.is_some());
            if register == port::STATUS && value == DEVICE_RESET && is_own && cdrom {
                self.device_reset();
            }
            return;
        }
        self.control -= Control::HIGH_ORDER;
        match register {
            port::STATUS => self.write_command(value),
            _ => {
                if register == port::DEVICE {
                    self.selected = TaskFile::selects(value);
                }
                // Both drives listen.
                for drive in self.drives.iter_mut().flatten() {
                    drive.file.write(register, value);
                }
            }
        }
    }

    /// The status as it reads without acknowledging the interrupt.
    pub fn alternate_status(&self) -> u8 {
        match self.drives[self.selected] {
            Some(_) => self.status(),
            None => 0,
        }
    }

    /// The guest writes the device control register.
    pub fn write_control(&mut self, value: u8) {
        let before = self.control;
        self.control = Control::from_bits_truncate(value);
        let reset = |control: Control| control.contains(Control::RESET);
        match (reset(before), reset(self.control)) {
            (false, true) => self.enter_reset(),
            (true, false) => self.leave_reset(),
            _ => {}
        }
        self.update_line();
    }

    /// The guest reads a register of the bus master engine; `None` where there is none.
    pub fn read_bus_master(&self, offset: u64) -> Option<u8> {
        self.bus_master.read(offset)
    }

    /// The guest writes a register of the bus master engine.
    pub fn write_bus_master(&mut self, offset: u64, value: u8) {
        match self.bus_master.write(offset, value) {
            Change::None => {}
            Change::Started => self.try_dma(),
            Change::Stopped => self.stop_dma(),
        }
    }

    /// PCI's command register lets the function access memory, or no longer.
    pub fn set_mastering(&mut self, on: bool) {
        if !on {
            let drives = self.drives.iter_mut().flatten();
            drives.for_each(Drive::controller_off);
        }
        self.mastering = on;
        self.try_dma();
    }

    /// The job that waits, unless one is in flight. The caller owes a [`Channel::finish`].
    pub fn take_job(&mut self) -> Option<Job> {
        if self.in_flight {
            return None;
        }
        let job = self.job.take();
        self.in_flight = job.is_some();
        job
    }

    /// Whether a job is in flight.
    pub fn in_flight(&self) -> bool {
        self.in_flight
    }

    /// Whether register writes are not taken.
    fn is_busy(&self) -> bool {
        matches!(
            self.phase,
            Phase::Reset | Phase::DeviceReset | Phase::Busy(_)
        )
    }

    /// The status of the selected drive.
    fn status(&self) -> u8 {
        let drive = self.drives[self.selected].as_ref();
        let failed = drive.is_some_and(|drive| drive.failed);
        let ready = if drive.is_some_and(|drive| drive.ready) {
            Status::READY | Status::SEEK_COMPLETE
        } else {
            Status::empty()
        };
        let status = match self.phase {
            Phase::Reset | Phase::DeviceReset => Status::BUSY,
            Phase::Busy(_) => ready | Status::BUSY,
            Phase::In { .. }
            | Phase::Out { .. }
            | Phase::Dma(_)
            | Phase::Packet { .. }
            | Phase::PacketIn { .. }
            | Phase::PacketDma { .. }
                if self.selected == self.active =>
            {
                ready | Status::DATA_REQUEST
            }
            _ if failed => ready | Status::ERROR,
            _ => ready,
        };
        status.bits()
    }

    fn enter_reset(&mut self) {
        self.job = None;
        self.phase = Phase::Reset;
        self.selected = 0;
        self.interrupt = false;
        self.update_line();
    }

    /// Ends a reset if nothing holds it any longer.
    fn leave_reset(&mut self) {
        if self.in_flight || self.control.contains(Control::RESET) {
            return;
        }
        self.phase = Phase::Idle;
        for drive in self.drives.iter_mut().flatten() {
            drive.reset_registers();
        }
    }

    /// The drive asserts INTRQ.
    fn raise(&mut self) {
        self.interrupt = true;
        self.update_line();
    }

    /// Sets the line; only where it changes, as each time is a call into the kernel.
    fn update_line(&mut self) {
        let high = self.interrupt && !self.control.contains(Control::NO_INTERRUPT);
        if high == self.line_is_high {
            return;
        }
        if high {
            self.bus_master.interrupt();
        }
        self.line_is_high = high;
        self.line.set(high);
    }

    fn queue(&mut self, work: Work, pending: Pending) {
        self.phase = Phase::Busy(pending);
        self.job = Some(Job {
            drive: self.active,
            work,
        });
        self.ring();
    }

    fn ring(&self) {
        if let Err(error) = self.doorbell.write(1) {
            // The counter would have to be full, and then the worker is awake.
            tracing::warn!(%error, "could not wake the IDE worker");
        }
    }
}
