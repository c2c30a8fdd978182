//! A CD and DVD reader as its packet commands show it (MMC-6, SPC-3, SFF-8020i): what each command
//! answers, without registers and without the disc's bytes.

mod replies;
mod sense;

pub use self::sense::Sense;

/// Bytes in a block of the disc.
pub const BLOCK: u64 = 2048;
/// Bytes of a command.
pub const PACKET_LEN: usize = 12;

/// A command, as it is written to the data port.
pub type Packet = [u8; PACKET_LEN];

/// What a command leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Nothing more: it is done.
    Done,
    /// These bytes for the host, already cut to the length that it allows.
    Bytes(Vec<u8>),
    /// Blocks of the disc for the host. They exist.
    Read {
        /// First block.
        first: u32,
        /// Blocks; may be 0.
        count: u32,
    },
}

/// What has happened to the disc since the host last asked (MMC-6, table 312).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MediaEvent {
    None = 0,
    EjectRequest = 1,
    New = 2,
    Removed = 3,
}

/// The drive.
#[derive(Debug)]
pub struct Cdrom {
    serial: String,
    sense: Sense,
    tray_open: bool,
    /// The host does not want the tray to open.
    locked: bool,
    /// The next command ends with the unit attention that there may be another disc.
    changed: bool,
    event: MediaEvent,
    /// How often there has been another disc, or none.
    disc: u32,
    /// How often the host has moved the tray since [`Cdrom::take_moves`]; two stand for any even
    /// number of times, since nobody asks for more than where it is.
    moves: u8,
}

/// Operation codes.
mod op {
    pub const TEST_UNIT_READY: u8 = 0x00;
    pub const REQUEST_SENSE: u8 = 0x03;
    pub const INQUIRY: u8 = 0x12;
    pub const MODE_SENSE_6: u8 = 0x1a;
    pub const START_STOP_UNIT: u8 = 0x1b;
    pub const PREVENT_ALLOW: u8 = 0x1e;
    pub const READ_CAPACITY: u8 = 0x25;
    pub const READ_10: u8 = 0x28;
    pub const SEEK_10: u8 = 0x2b;
    pub const READ_TOC: u8 = 0x43;
    pub const GET_CONFIGURATION: u8 = 0x46;
    pub const GET_EVENT_STATUS: u8 = 0x4a;
    pub const READ_DISC_INFORMATION: u8 = 0x51;
    pub const MODE_SENSE_10: u8 = 0x5a;
    pub const READ_12: u8 = 0xa8;
    pub const SET_CD_SPEED: u8 = 0xbb;
    pub const MECHANISM_STATUS: u8 = 0xbd;
}

/// START STOP UNIT: move the tray.
const LOAD_EJECT: u8 = 1 << 1;
/// START STOP UNIT: with [`LOAD_EJECT`] in, otherwise out.
const START: u8 = 1 << 0;

impl Cdrom {
    /// A drive whose tray is closed.
    pub fn new(serial: String) -> Self {
        Self {
            serial,
            sense: Sense::NONE,
            tray_open: false,
            locked: false,
            changed: false,
            event: MediaEvent::None,
            disc: 0,
            moves: 0,
        }
    }

    /// Whether the tray is open.
    pub fn is_open(&self) -> bool {
        self.tray_open
    }

    /// Whether the host does not want the tray to open.
    pub fn is_locked(&self) -> bool {
        self.locked
    }

    /// Somebody presses the button, and the host learns of it when it asks. With `force` a lock is
    /// undone.
    pub fn ask_to_eject(&mut self, force: bool) {
        self.event = MediaEvent::EjectRequest;
        self.locked &= !force;
    }

    /// Somebody moves the tray, with a disc of `blocks` blocks in it.
    pub fn set_tray(&mut self, open: bool, blocks: u32) {
        if self.tray_open == open {
            return;
        }
        self.tray_open = open;
        if open {
            self.event = MediaEvent::Removed;
        } else {
            self.changed = true;
            self.event = match blocks {
                0 => MediaEvent::None,
                _ => MediaEvent::New,
            };
        }
    }

    /// There is another disc in the tray, or none.
    pub fn disc_changed(&mut self) {
        self.disc = self.disc.wrapping_add(1);
    }

    /// Which disc there is, for who wants to know whether it is still the same.
    pub fn disc(&self) -> u32 {
        self.disc
    }

    /// Why a command that has begun to read a disc that is gone has to fail, with one of `blocks`
    /// blocks in the drive.
    pub fn disc_is_gone(&self, blocks: u32) -> Sense {
        self.needs_medium(blocks)
            .err()
            .unwrap_or(Sense::MEDIUM_CHANGED)
    }

    /// Whether the host has moved the tray since [`Cdrom::take_moves`].
    pub fn has_moved(&self) -> bool {
        self.moves > 0
    }

    /// How often the host has moved the tray: never, once, or twice, for any even number.
    pub fn take_moves(&mut self) -> u8 {
        std::mem::take(&mut self.moves)
    }

    /// Power-on: what firmware leaves behind, but for the tray, which stays where it is.
    pub fn power_on(&mut self) {
        self.sense = Sense::NONE;
        self.locked = false;
        self.changed = false;
        self.event = MediaEvent::None;
    }

    /// Carries out a command, with a disc of `blocks` blocks in the drive.
    ///
    /// # Errors
    /// What REQUEST SENSE will return.
    pub fn execute(&mut self, packet: &Packet, blocks: u32) -> Result<Answer, Sense> {
        if packet[0] == op::REQUEST_SENSE {
            let sense = std::mem::replace(&mut self.sense, Sense::NONE);
            return Ok(cut(replies::sense(sense), packet[4].into()));
        }
        let result = self.dispatch(packet, blocks);
        self.sense = result.as_ref().err().copied().unwrap_or(Sense::NONE);
        result
    }

    /// The command under way has failed while its data was moved.
    pub fn fail(&mut self, sense: Sense) {
        self.sense = sense;
    }

    fn dispatch(&mut self, packet: &Packet, blocks: u32) -> Result<Answer, Sense> {
        match packet[0] {
            op::INQUIRY => return self.inquiry(packet),
            op::GET_CONFIGURATION => return self.get_configuration(packet, blocks),
            op::GET_EVENT_STATUS => return self.get_event_status(packet, blocks),
            _ if std::mem::take(&mut self.changed) => return Err(Sense::MEDIUM_CHANGED),
            _ => {}
        }
        match packet[0] {
            op::TEST_UNIT_READY => self.needs_medium(blocks).map(|()| Answer::Done),
            op::MODE_SENSE_6 => {
                self.mode_sense(packet, packet[4].into(), replies::ModeHeader::Short)
            }
            op::MODE_SENSE_10 => {
                self.mode_sense(packet, be16(packet, 7).into(), replies::ModeHeader::Long)
            }
            op::START_STOP_UNIT => self.start_stop(packet, blocks),
            op::PREVENT_ALLOW => {
                self.locked = packet[4] & 1 != 0;
                Ok(Answer::Done)
            }
            op::READ_CAPACITY => {
                self.needs_medium(blocks)?;
                Ok(Answer::Bytes(replies::capacity(blocks)))
            }
            op::READ_10 => self.read(packet, u32::from(be16(packet, 7)), blocks),
            op::READ_12 => self.read(packet, be32(packet, 6), blocks),
            op::SEEK_10 => self.read(packet, 0, blocks).map(|_| Answer::Done),
            op::READ_TOC => self.read_toc(packet, blocks),
            op::READ_DISC_INFORMATION => self.read_disc_information(packet, blocks),
            op::MECHANISM_STATUS => {
                let status = replies::mechanism_status(self.tray_open);
                Ok(cut(status, be16(packet, 8).into()))
            }
            op::SET_CD_SPEED => Ok(Answer::Done),
            code => {
                tracing::debug!(code, "a packet command that is not supported");
                Err(Sense::UNKNOWN_COMMAND)
            }
        }
    }

    fn has_medium(&self, blocks: u32) -> bool {
        blocks > 0 && !self.tray_open
    }

    fn needs_medium(&self, blocks: u32) -> Result<(), Sense> {
        match self.tray_open {
            true => Err(Sense::TRAY_OPEN),
            false if blocks == 0 => Err(Sense::NO_MEDIUM),
            false => Ok(()),
        }
    }

    fn inquiry(&self, packet: &Packet) -> Result<Answer, Sense> {
        const VITAL_PRODUCT_DATA: u8 = 1;
        let reply = match (packet[1] & VITAL_PRODUCT_DATA, packet[2]) {
            (0, 0) => replies::inquiry(),
            (VITAL_PRODUCT_DATA, page) => {
                replies::vital_product_data(page, &self.serial).ok_or(Sense::INVALID_FIELD)?
            }
            _ => return Err(Sense::INVALID_FIELD),
        };
        Ok(cut(reply, be16(packet, 3).into()))
    }

    fn get_configuration(&self, packet: &Packet, blocks: u32) -> Result<Answer, Sense> {
        let wanted = match packet[1] & 3 {
            0 => replies::Wanted::All,
            1 => replies::Wanted::Current,
            2 => replies::Wanted::One,
            _ => return Err(Sense::INVALID_FIELD),
        };
        let disc = if self.tray_open { 0 } else { blocks };
        let reply = replies::configuration(wanted, be16(packet, 2), disc);
        Ok(cut(reply, be16(packet, 7).into()))
    }

    /// GET EVENT STATUS NOTIFICATION: only when asked, and only of the disc.
    fn get_event_status(&mut self, packet: &Packet, blocks: u32) -> Result<Answer, Sense> {
        const POLLED: u8 = 1;
        const MEDIA: u8 = 1 << 4;
        if packet[1] & POLLED == 0 {
            return Err(Sense::INVALID_FIELD);
        }
        let media = packet[4] & MEDIA != 0;
        let event = if media {
            std::mem::replace(&mut self.event, MediaEvent::None)
        } else {
            MediaEvent::None
        };
        let present = self.has_medium(blocks);
        let status = media.then(|| {
            (
                event as u8,
                u8::from(self.tray_open) | u8::from(present) << 1,
            )
        });
        Ok(cut(replies::event_status(status), be16(packet, 7).into()))
    }

    fn mode_sense(
        &self,
        packet: &Packet,
        allowed: usize,
        header: replies::ModeHeader,
    ) -> Result<Answer, Sense> {
        const SAVED: u8 = 3;
        let (control, page) = (packet[2] >> 6, packet[2] & 0x3f);
        if control == SAVED {
            return Err(Sense::NOT_SAVED);
        }
        let changeable = control == 1;
        let reply = replies::mode_pages(page, self.locked, changeable, header);
        Ok(cut(reply.ok_or(Sense::INVALID_FIELD)?, allowed))
    }

    fn start_stop(&mut self, packet: &Packet, blocks: u32) -> Result<Answer, Sense> {
        let open = match packet[4] & (LOAD_EJECT | START) {
            LOAD_EJECT => true,
            load if load == LOAD_EJECT | START => false,
            // There is no motor.
            _ => return Ok(Answer::Done),
        };
        if open && self.locked && !self.tray_open {
            return Err(Sense::LOCKED);
        }
        if open != self.tray_open {
            self.set_tray(open, blocks);
            self.moves = self.moves % 2 + 1;
        }
        Ok(Answer::Done)
    }

    fn read(&self, packet: &Packet, count: u32, blocks: u32) -> Result<Answer, Sense> {
        self.needs_medium(blocks)?;
        let first = be32(packet, 2);
        let end = first.checked_add(count).ok_or(Sense::OUT_OF_RANGE)?;
        if first >= blocks || end > blocks {
            return Err(Sense::OUT_OF_RANGE);
        }
        Ok(Answer::Read { first, count })
    }

    fn read_toc(&self, packet: &Packet, blocks: u32) -> Result<Answer, Sense> {
        self.needs_medium(blocks)?;
        let in_minutes = packet[1] & 2 != 0;
        // Where SFF-8020i had the format, those who do not know MMC put it.
        let format = match packet[2] & 0xf {
            0 => packet[9] >> 6,
            format => format,
        };
        let reply = match format {
            0 => replies::toc(packet[6], in_minutes, blocks).ok_or(Sense::INVALID_FIELD)?,
            1 => replies::sessions(in_minutes),
            2 => replies::full_toc(blocks),
            _ => return Err(Sense::INVALID_FIELD),
        };
        Ok(cut(reply, be16(packet, 7).into()))
    }

    fn read_disc_information(&self, packet: &Packet, blocks: u32) -> Result<Answer, Sense> {
        self.needs_medium(blocks)?;
        if packet[1] & 7 != 0 {
            return Err(Sense::INVALID_FIELD);
        }
        Ok(cut(replies::disc_information(), be16(packet, 7).into()))
    }
}

/// A reply, as much of it as the host has room for.
fn cut(mut reply: Vec<u8>, allowed: usize) -> Answer {
    reply.truncate(allowed);
    Answer::Bytes(reply)
}

fn be16(packet: &Packet, at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

fn be32(packet: &Packet, at: usize) -> u32 {
    u32::from(be16(packet, at)) << 16 | u32::from(be16(packet, at + 2))
}

#[cfg(test)]
mod tests;
