//! The commands of a CD drive, and the protocol of PACKET (ATA/ATAPI-6, 8.24 and 9.8): the guest
//! writes a command of 12 bytes to the data port; its reply comes back block by block through the
//! data port, no block longer than the guest allows, or by the bus master.

use strata_exec::mem::to_usize;
use strata_storage::error::IoError;

use super::{Channel, Outcome, Payload, Pending, Phase, Reply, Work};
use crate::ide::{
    bus_master::TableEnd,
    cdrom::{Answer, BLOCK, Packet, Sense},
    command::CdromCommand,
    drive::Drive,
    identify,
    taskfile::Error,
};

/// PACKET's features register: data by the bus master.
const DMA: u8 = 1 << 0;
/// PACKET's features register: the drive may let the other one work meanwhile.
const OVERLAPPED: u8 = 1 << 1;

/// Interrupt reason, in the sector count register: the drive takes a command.
const REASON_COMMAND: u8 = 0b01;
/// Interrupt reason: data for the guest.
const REASON_DATA: u8 = 0b10;
/// Interrupt reason: the command has ended.
const REASON_STATUS: u8 = 0b11;

/// Blocks that are read from the disc at a time where they go through the data port.
const CHUNK: u32 = 32;

/// What is left of a PACKET command.
#[derive(Debug, Clone)]
pub struct Session {
    /// Data goes by the bus master.
    dma: bool,
    /// The guest's limit for a block at the data port, in bytes; even.
    limit: usize,
    /// The next block of the disc.
    next: u32,
    /// Blocks of the disc that are left.
    left: u32,
    /// Which disc that is, as [`Cdrom::disc`](crate::ide::cdrom::Cdrom::disc) counts.
    disc: u32,
}

impl Session {
    /// Whether its data goes by the bus master.
    pub(super) fn by_dma(&self) -> bool {
        self.dma
    }

    /// Which disc it reads.
    pub(super) fn disc(&self) -> u32 {
        self.disc
    }

    /// Bytes of the next block at the data port where `left` are there.
    fn block(&self, left: usize) -> usize {
        let block = to_usize(BLOCK);
        match self.limit {
            limit if left <= limit => left,
            limit if limit >= block => limit / block * block,
            limit => limit,
        }
    }
}

impl Channel {
    /// The guest writes the command register of a CD drive.
    pub(super) fn execute_cdrom(&mut self, command: CdromCommand) {
        match command {
            CdromCommand::Packet => self.packet(),
            CdromCommand::Identify => {
                if let Some(drive) = &self.drives[self.active] {
                    let data = identify::packet_data(drive);
                    self.offer_block(data, None);
                }
            }
            CdromCommand::DeviceReset => self.device_reset(),
            CdromCommand::SetFeatures => self.set(Drive::set_packet_features),
            CdromCommand::NotAtapi => {
                // Hosts recognise the drive by that.
                self.with_active(|drive| drive.file.set_signature(drive.signature()));
                self.fail(Error::ABORTED);
            }
        }
    }

    /// DEVICE RESET: a CD drive takes it at any time. What is in flight ends, for nobody.
    pub(super) fn device_reset(&mut self) {
        self.job = None;
        self.interrupt = false;
        self.update_line();
        self.phase = Phase::DeviceReset;
        self.leave_device_reset();
    }

    pub(super) fn leave_device_reset(&mut self) {
        if !self.in_flight {
            self.phase = Phase::Idle;
            self.with_active(Drive::reset_registers);
        }
    }

    fn with_active(&mut self, change: impl FnOnce(&mut Drive)) {
        if let Some(drive) = &mut self.drives[self.active] {
            change(drive);
        }
    }

    fn packet(&mut self) {
        let Some(drive) = &mut self.drives[self.active] else {
            return;
        };
        let features = drive.file.features();
        if features & OVERLAPPED != 0 {
            self.fail(Error::ABORTED);
            return;
        }
        let session = Session {
            dma: features & DMA != 0,
            limit: usize::from(drive.file.byte_count() & !1),
            next: 0,
            left: 0,
            disc: 0,
        };
        drive.file.set_count(REASON_COMMAND);
        self.phase = Phase::Packet {
            session,
            packet: Packet::default(),
            at: 0,
        };
    }

    /// The guest writes the data port while the drive takes a command.
    pub(super) fn write_packet(&mut self, data: &[u8]) {
        let Phase::Packet {
            session,
            packet,
            at,
        } = &mut self.phase
        else {
            return;
        };
        let count = data.len().min(packet.len() - *at);
        packet[*at..*at + count].copy_from_slice(&data[..count]);
        *at += count;
        if *at == packet.len() {
            let (session, packet) = (session.clone(), *packet);
            self.run_packet(session, packet);
        }
    }

    fn run_packet(&mut self, mut session: Session, packet: Packet) {
        let Some(drive) = &mut self.drives[self.active] else {
            return;
        };
        let blocks = drive.blocks();
        let Some(cdrom) = &mut drive.cdrom else {
            return;
        };
        let answer = cdrom.execute(&packet, blocks);
        session.disc = cdrom.disc();
        if cdrom.has_moved() {
            self.ring();
        }
        let payload = match answer {
            Err(sense) => return self.check_condition(sense),
            Ok(Answer::Done | Answer::Read { count: 0, .. }) => return self.packet_done(),
            Ok(Answer::Bytes(bytes)) if bytes.is_empty() => return self.packet_done(),
            Ok(Answer::Bytes(bytes)) => Payload::Bytes(bytes),
            Ok(Answer::Read { first, count }) => Payload::Disc { first, count },
        };
        if session.dma {
            self.phase = Phase::PacketDma { session, payload };
            self.try_dma();
            return;
        }
        if session.limit == 0 {
            self.set_reason(REASON_STATUS);
            self.fail(Error::ABORTED);
            return;
        }
        match payload {
            Payload::Bytes(bytes) => self.offer(session, bytes, 0),
            Payload::Disc { first, count } => {
                (session.next, session.left) = (first, count);
                self.queue_disc(session);
            }
        }
    }

    fn queue_disc(&mut self, mut session: Session) {
        if self.has_lost_its_disc(&session) {
            return self.fail_without_disc(&session);
        }
        let (first, count) = (session.next, session.left.min(CHUNK));
        // Below the disc's end, so it does not overflow.
        session.next += count;
        session.left -= count;
        self.queue(Work::ReadDisc { first, count }, Pending::Packet(session));
    }

    /// Offers what there is in `data` from `at` on, as much as the guest's limit allows.
    fn offer(&mut self, session: Session, data: Vec<u8>, at: usize) {
        let len = session.block(data.len() - at);
        self.with_active(|drive| {
            let len = u16::try_from(len).expect("the guest's limit has 16 bits");
            drive.file.set_byte_count(len);
            drive.file.set_count(REASON_DATA);
        });
        self.phase = Phase::PacketIn {
            session,
            data,
            at,
            end: at + len,
        };
        self.raise();
    }

    /// The guest reads the data port while there is a reply.
    pub(super) fn read_packet_data(&mut self, out: &mut [u8]) {
        let Phase::PacketIn {
            session,
            data,
            at,
            end,
        } = &mut self.phase
        else {
            return;
        };
        let count = out.len().min(*end - *at);
        out[..count].copy_from_slice(&data[*at..*at + count]);
        *at += count;
        if *at < *end {
            return;
        }
        let (session, at) = (session.clone(), *at);
        if at < data.len() {
            let data = std::mem::take(data);
            self.offer(session, data, at);
        } else if session.left > 0 {
            self.queue_disc(session);
        } else {
            self.packet_done();
        }
    }

    /// What a job for a PACKET command has come to.
    pub(super) fn packet_finished(&mut self, session: Session, outcome: Outcome) {
        match outcome {
            Ok(Reply::Data(list)) => self.offer(session, list.to_vec(), 0),
            Ok(Reply::Moved { end, .. }) => {
                self.bus_master.moved(end);
                match end {
                    TableEnd::Exact | TableEnd::More => self.packet_done(),
                    TableEnd::Short | TableEnd::Fault => self.check_condition(Sense::DATA_PHASE),
                }
            }
            Ok(Reply::Done) => self.packet_done(),
            Err(_) if self.has_lost_its_disc(&session) => self.fail_without_disc(&session),
            Err(error) => {
                tracing::debug!(%error, "a CD drive's command failed");
                if session.dma {
                    self.bus_master.moved(TableEnd::Short);
                }
                self.check_condition(match error {
                    IoError::OutOfRange => Sense::OUT_OF_RANGE,
                    _ => Sense::UNREADABLE,
                });
            }
        }
    }

    fn set_reason(&mut self, reason: u8) {
        self.with_active(|drive| drive.file.set_count(reason));
    }

    fn packet_done(&mut self) {
        self.set_reason(REASON_STATUS);
        self.succeed();
    }

    pub(super) fn check_condition(&mut self, sense: Sense) {
        self.with_active(|drive| {
            if let Some(cdrom) = &mut drive.cdrom {
                cdrom.fail(sense);
            }
        });
        self.set_reason(REASON_STATUS);
        // The key is in the error register's upper half.
        self.fail(Error::from_bits_retain((sense.key as u8) << 4));
    }
}

impl Drive {
    /// SET FEATURES: a CD drive has nothing to set but its transfer mode.
    fn set_packet_features(&mut self) -> Result<(), Error> {
        const TRANSFER_MODE: u8 = 0x03;
        match self.file.features() {
            TRANSFER_MODE => self.set_transfer_mode(),
            _ => Err(Error::ABORTED),
        }
    }
}
