//! The SMART command (ATA8-ACS, 7.53), whose features register says what it does, and READ LOG EXT
//! (7.31).

use super::Channel;
use crate::ide::{drive::Drive, smart::Invalid, taskfile::Error};

/// What the LBA mid and high registers must hold, as a guard against accidents.
const KEY: u16 = 0xc24f;

/// Values of the features register.
mod subcommand {
    pub const READ_DATA: u8 = 0xd0;
    pub const READ_THRESHOLDS: u8 = 0xd1;
    pub const ATTRIBUTE_AUTOSAVE: u8 = 0xd2;
    pub const SAVE_ATTRIBUTES: u8 = 0xd3;
    pub const EXECUTE_OFF_LINE: u8 = 0xd4;
    pub const READ_LOG: u8 = 0xd5;
    pub const ENABLE: u8 = 0xd8;
    pub const DISABLE: u8 = 0xd9;
    pub const RETURN_STATUS: u8 = 0xda;
}

/// What a subcommand leads to.
enum Answer {
    Done,
    Data(Vec<u8>),
}

impl Channel {
    pub(super) fn smart(&mut self) {
        let Some(drive) = &mut self.drives[self.active] else {
            return;
        };
        match drive.smart_command() {
            Ok(Answer::Done) => self.succeed(),
            Ok(Answer::Data(data)) => self.offer_block(data, None),
            Err(Invalid) => self.fail(Error::ABORTED),
        }
    }

    /// READ LOG EXT: of the general purpose logs there is the directory alone, which says so.
    pub(super) fn read_log_ext(&mut self) {
        const DIRECTORY: u8 = 0x00;
        const VERSION: u8 = 1;
        let Some(drive) = &self.drives[self.active] else {
            return;
        };
        let file = &drive.file;
        if (file.lba_low(), file.count16()) != (DIRECTORY, 1) {
            self.fail(Error::ABORTED);
            return;
        }
        let mut data = vec![0; 512];
        data[0] = VERSION;
        self.offer_block(data, None);
    }
}

impl Drive {
    fn smart_command(&mut self) -> Result<Answer, Invalid> {
        let (file, smart) = (&mut self.file, &mut self.smart);
        let subcommand = file.features();
        let enables = subcommand == subcommand::ENABLE;
        if file.byte_count() != KEY || !(smart.is_enabled() || enables) {
            return Err(Invalid);
        }
        match subcommand {
            subcommand::READ_DATA => return Ok(Answer::Data(smart.data())),
            subcommand::READ_THRESHOLDS => return Ok(Answer::Data(smart.thresholds())),
            subcommand::READ_LOG => {
                return Ok(Answer::Data(smart.log(file.lba_low(), file.count())?));
            }
            subcommand::ATTRIBUTE_AUTOSAVE => smart.set_autosave(file.count())?,
            // They are at all times what is saved.
            subcommand::SAVE_ATTRIBUTES => {}
            subcommand::EXECUTE_OFF_LINE => smart.execute(file.lba_low())?,
            subcommand::ENABLE => smart.enable(true),
            subcommand::DISABLE => smart.enable(false),
            // No threshold is exceeded: the registers stay as they are.
            subcommand::RETURN_STATUS => {}
            _ => return Err(Invalid),
        }
        Ok(Answer::Done)
    }
}
