//! Commands that move data: block by block through the data port, or by the bus master.

use strata_block::disk::Op;
use strata_exec::mem::{SgList, to_usize};
use strata_storage::error::IoError;

use super::{Channel, Move, Outcome, Payload, Pending, Phase, Reply, Work};
use crate::ide::{
    bus_master::TableEnd,
    drive::SECTOR,
    taskfile::{Addressing, Error},
};

/// Sectors that READ VERIFY reads at a time.
const VERIFY_CHUNK: u32 = 256;

/// Which way data goes, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Drive to guest through the data port.
    PioRead,
    /// Guest to drive through the data port.
    PioWrite,
    /// Drive to nowhere.
    Verify,
    /// Drive to guest memory.
    DmaRead,
    /// Guest memory to drive.
    DmaWrite,
    /// Ranges to discard, from guest memory.
    Trim,
}

/// What is left of a command that moves data.
#[derive(Debug, Clone)]
pub struct Transfer {
    /// Which way.
    pub kind: Kind,
    /// How the guest has given the address, and wants to see one.
    pub addressing: Addressing,
    /// The next sector.
    pub next: u64,
    /// Sectors left; for [`Kind::Trim`], blocks of ranges.
    pub left: u32,
    /// Sectors per block at the data port.
    pub block: u32,
    /// Written sectors are durable before the command completes.
    pub fua: bool,
}

impl Transfer {
    fn advance(&mut self, sectors: u32) {
        let sectors = sectors.min(self.left);
        self.next += u64::from(sectors);
        self.left -= sectors;
    }

    /// Sectors of the next step.
    fn step(&self) -> u32 {
        self.left.min(self.block)
    }
}

fn bytes(sectors: u32) -> usize {
    sectors as usize * to_usize(SECTOR)
}

impl Channel {
    /// Sets out on a transfer whose range has been checked.
    pub(super) fn start(&mut self, mut transfer: Transfer) {
        match transfer.kind {
            Kind::PioRead => self.queue_read(transfer),
            Kind::Verify => {
                transfer.block = VERIFY_CHUNK;
                self.queue_read(transfer);
            }
            Kind::PioWrite => self.want_block(transfer),
            Kind::DmaRead | Kind::DmaWrite | Kind::Trim => {
                self.phase = Phase::Dma(transfer);
                self.try_dma();
            }
        }
    }

    /// Offers `block` at the data port, and says so.
    pub(super) fn offer_block(&mut self, block: Vec<u8>, then: Option<Transfer>) {
        self.phase = Phase::In { block, at: 0, then };
        self.raise();
    }

    /// Waits for the next block at the data port.
    fn want_block(&mut self, transfer: Transfer) {
        let block = vec![0; bytes(transfer.step())];
        self.phase = Phase::Out {
            block,
            at: 0,
            transfer,
        };
    }

    fn queue_read(&mut self, transfer: Transfer) {
        let work = Work::Read {
            sector: transfer.next,
            count: transfer.step(),
        };
        self.queue(work, Pending::Transfer(transfer));
    }

    /// The guest reads the data port; what is not there reads as ones.
    pub fn read_data(&mut self, data: &mut [u8]) {
        data.fill(0xff);
        let selected = self.selected == self.active;
        if !selected {
            return;
        }
        let Phase::In { block, at, then } = &mut self.phase else {
            self.read_packet_data(data);
            return;
        };
        let count = data.len().min(block.len() - *at);
        data[..count].copy_from_slice(&block[*at..*at + count]);
        *at += count;
        if *at < block.len() {
            return;
        }
        match then.take() {
            Some(transfer) if transfer.left > 0 => self.queue_read(transfer),
            Some(transfer) => self.end(&transfer),
            None => self.phase = Phase::Idle,
        }
    }

    /// The guest writes the data port.
    pub fn write_data(&mut self, data: &[u8]) {
        if self.selected != self.active {
            return;
        }
        let Phase::Out {
            block,
            at,
            transfer,
        } = &mut self.phase
        else {
            self.write_packet(data);
            return;
        };
        let count = data.len().min(block.len() - *at);
        block[*at..*at + count].copy_from_slice(&data[..count]);
        *at += count;
        if *at < block.len() {
            return;
        }
        let work = Work::Write {
            sector: transfer.next,
            data: SgList::from_vec(std::mem::take(block)),
            fua: transfer.fua,
        };
        let transfer = transfer.clone();
        self.queue(work, Pending::Transfer(transfer));
    }

    /// Starts the bus master's part once both the engine and the drive are ready.
    pub(super) fn try_dma(&mut self) {
        if !self.mastering || !self.bus_master.is_active() {
            return;
        }
        let table = self.bus_master.table();
        let transfer = match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Dma(transfer) => transfer,
            Phase::PacketDma { session, payload } => {
                let reads = matches!(payload, Payload::Disc { .. });
                if reads && self.has_lost_its_disc(&session) {
                    return self.fail_without_disc(&session);
                }
                let work = Work::PacketDma { payload, table };
                self.queue(work, Pending::Packet(session));
                return;
            }
            other => {
                self.phase = other;
                return;
            }
        };
        let work = match transfer.kind {
            Kind::Trim => Work::Trim {
                blocks: transfer.left,
                table,
            },
            kind => Work::Dma(Move {
                op: match kind {
                    Kind::DmaWrite => Op::Write { fua: transfer.fua },
                    _ => Op::Read,
                },
                sector: transfer.next,
                count: transfer.left,
                table,
            }),
        };
        self.queue(work, Pending::Transfer(transfer));
    }

    /// The guest stops the engine. What is in flight ends as if that had come later, and the drive
    /// stays busy until then; what has not been started goes back to waiting.
    pub(super) fn stop_dma(&mut self) {
        let dma = |work: &Work| {
            matches!(
                work,
                Work::Dma(_) | Work::Trim { .. } | Work::PacketDma { .. }
            )
        };
        let Some(job) = self.job.take_if(|job| dma(&job.work)) else {
            return;
        };
        match (&self.phase, job.work) {
            (Phase::Busy(Pending::Packet(session)), Work::PacketDma { payload, .. }) => {
                let session = session.clone();
                self.phase = Phase::PacketDma { session, payload };
            }
            (Phase::Busy(Pending::Transfer(transfer)), _) => {
                self.phase = Phase::Dma(transfer.clone());
            }
            _ => {}
        }
    }

    /// A job has ended: what [`Channel::take_job`] owes.
    pub fn finish(&mut self, outcome: Outcome) {
        self.in_flight = false;
        match (&self.phase, outcome) {
            // The guest has given up on it, and on its interrupt.
            (Phase::Reset, _) => self.leave_reset(),
            (Phase::DeviceReset, _) => self.leave_device_reset(),
            (Phase::Busy(Pending::Command), Ok(_)) => self.succeed(),
            (Phase::Busy(Pending::Command), Err(_)) => self.fail(Error::ABORTED),
            (Phase::Busy(Pending::Packet(session)), outcome) => {
                let session = session.clone();
                self.packet_finished(session, outcome);
            }
            (Phase::Busy(Pending::Transfer(transfer)), outcome) => {
                let transfer = transfer.clone();
                match outcome {
                    Ok(reply) => self.go_on(transfer, reply),
                    Err(error) => self.fail_with(&transfer, &error),
                }
            }
            _ => {}
        }
    }

    fn go_on(&mut self, mut transfer: Transfer, reply: Reply) {
        match (transfer.kind, reply) {
            (Kind::PioRead, Reply::Data(list)) => {
                transfer.advance(transfer.step());
                self.offer_block(list.to_vec(), Some(transfer));
            }
            (Kind::Verify, _) => {
                transfer.advance(transfer.step());
                match transfer.left {
                    0 => self.complete(&transfer),
                    _ => self.queue_read(transfer),
                }
            }
            (Kind::PioWrite, _) => {
                transfer.advance(transfer.step());
                if transfer.left == 0 {
                    self.complete(&transfer);
                } else {
                    self.want_block(transfer);
                    self.raise();
                }
            }
            (_, Reply::Moved { sectors, end }) => {
                transfer.advance(sectors);
                self.bus_master.moved(end);
                match end {
                    TableEnd::Exact | TableEnd::More => self.complete(&transfer),
                    // The drive goes on waiting; the guest can describe more memory, or reset it.
                    TableEnd::Short => self.phase = Phase::Dma(transfer),
                    TableEnd::Fault => self.fail_transfer(&transfer, Error::ABORTED),
                }
            }
            (_, Reply::Done | Reply::Data(_)) => self.complete(&transfer),
        }
    }

    /// The transfer is done: the registers show the last sector, and no interrupt is due.
    fn end(&mut self, transfer: &Transfer) {
        self.phase = Phase::Idle;
        if let Some(drive) = &mut self.drives[self.active] {
            drive.file.set_count(0);
            if transfer.kind != Kind::Trim {
                let last = transfer.next.saturating_sub(1);
                drive
                    .file
                    .set_sector(last, transfer.addressing, drive.geometry);
            }
        }
    }

    fn complete(&mut self, transfer: &Transfer) {
        self.end(transfer);
        self.raise();
    }

    fn fail_with(&mut self, transfer: &Transfer, error: &IoError) {
        tracing::debug!(%error, sector = transfer.next, "an IDE command failed");
        let reading = matches!(transfer.kind, Kind::PioRead | Kind::DmaRead | Kind::Verify);
        let bits = match error {
            IoError::OutOfRange if transfer.kind != Kind::Trim => Error::NOT_FOUND,
            _ if reading => Error::UNCORRECTABLE,
            _ => Error::ABORTED,
        };
        // A transfer by the bus master that fails has moved nothing more.
        if matches!(transfer.kind, Kind::DmaRead | Kind::DmaWrite | Kind::Trim) {
            self.bus_master.moved(TableEnd::Short);
        }
        self.fail_transfer(transfer, bits);
    }

    /// Ends a transfer with an error at its next sector.
    pub(super) fn fail_transfer(&mut self, transfer: &Transfer, error: Error) {
        if let Some(drive) = &mut self.drives[self.active] {
            if transfer.kind != Kind::Trim {
                drive
                    .file
                    .set_sector(transfer.next, transfer.addressing, drive.geometry);
            }
            drive.log_failure(error);
        }
        self.fail(error);
    }
}
