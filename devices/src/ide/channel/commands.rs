//! What each command does when it is written to the command register.

use super::{
    Channel, Pending, Phase, Work,
    transfer::{Kind, Transfer},
};
use crate::ide::{
    command::{Command, Fua, Protocol, Width},
    drive::{DmaMode, Drive, MAX_MULTIPLE},
    identify::{self, LBA28_SECTORS, MAX_TRIM_BLOCKS},
    taskfile::{Addressing, Error, Geometry},
};

/// What CHECK POWER MODE answers: active or idle.
const POWER_ACTIVE: u8 = 0xff;
/// DATA SET MANAGEMENT's features register: trim.
const TRIM: u8 = 1;

impl Channel {
    /// The guest writes the command register of the selected drive.
    pub(super) fn write_command(&mut self, code: u8) {
        if !matches!(self.phase, Phase::Idle) {
            return;
        }
        let is_cdrom = |drive: &Drive| drive.cdrom.is_some();
        let command = if self.drives[self.selected].as_ref().is_some_and(is_cdrom) {
            Command::decode_cdrom(code)
        } else {
            Command::decode(code)
        };
        if command == Some(Command::Diagnostic) && self.has_drives() {
            self.diagnose();
            return;
        }
        let Some(drive) = &mut self.drives[self.selected] else {
            return;
        };
        self.interrupt = false;
        self.active = self.selected;
        drive.failed = false;
        drive.ready = true;
        drive.record_command(code);
        drive.file.set_error(Error::empty());
        self.update_line();
        match command {
            Some(command) => self.execute(command),
            None => {
                tracing::debug!(code, "an IDE command that is not supported");
                self.fail(Error::ABORTED);
            }
        }
    }

    fn execute(&mut self, command: Command) {
        match command {
            Command::Read(protocol, width) => {
                self.start_transfer(Kind::reading(protocol), protocol, width, Fua::No);
            }
            Command::Write(protocol, width, fua) => {
                self.start_transfer(Kind::writing(protocol), protocol, width, fua);
            }
            Command::Verify(width) => {
                self.start_transfer(Kind::Verify, Protocol::Pio, width, Fua::No);
            }
            Command::Flush => self.queue(Work::Flush, Pending::Command),
            Command::DataSetManagement => self.data_set_management(),
            Command::Identify => self.identify(),
            Command::SetFeatures => self.set_features(),
            Command::SetMultiple => self.set(Drive::set_multiple),
            Command::InitializeParameters => self.set(Drive::initialize_parameters),
            Command::NativeMax(width) => self.set(|drive| drive.native_max(width)),
            Command::Seek => self.set(Drive::seek),
            Command::CheckPower => self.set(|drive| {
                drive.file.set_count(POWER_ACTIVE);
                Ok(())
            }),
            Command::Smart => self.smart(),
            Command::ReadLogExt => self.read_log_ext(),
            Command::StandBy => self.set(|drive| {
                drive.stand_by();
                Ok(())
            }),
            Command::Recalibrate | Command::Idle => self.succeed(),
            Command::Cdrom(command) => self.execute_cdrom(command),
            // Has been dealt with, as it is for both drives.
            Command::Diagnostic => {}
        }
    }

    /// The command is done, and without data.
    pub(super) fn succeed(&mut self) {
        self.phase = Phase::Idle;
        self.raise();
    }

    /// The command has failed.
    pub(super) fn fail(&mut self, error: Error) {
        self.phase = Phase::Idle;
        if let Some(drive) = &mut self.drives[self.active] {
            drive.failed = true;
            drive.file.set_error(error);
        }
        self.raise();
    }

    /// Carries out a command that only changes the drive's state.
    pub(super) fn set(&mut self, change: impl FnOnce(&mut Drive) -> Result<(), Error>) {
        let result = match &mut self.drives[self.active] {
            Some(drive) => change(drive),
            None => return,
        };
        match result {
            Ok(()) => self.succeed(),
            Err(error) => self.fail(error),
        }
    }

    /// EXECUTE DEVICE DIAGNOSTIC: for both drives, whichever is selected.
    fn diagnose(&mut self) {
        for drive in self.drives.iter_mut().flatten() {
            drive.reset_registers();
        }
        self.selected = 0;
        self.raise();
    }

    fn start_transfer(&mut self, kind: Kind, protocol: Protocol, width: Width, fua: Fua) {
        let Some(drive) = &self.drives[self.active] else {
            return;
        };
        let block = match protocol {
            Protocol::Pio | Protocol::Dma => 1,
            Protocol::PioMultiple => u32::from(drive.multiple),
        };
        if block == 0 {
            self.fail(Error::ABORTED);
            return;
        }
        let addressing = width.addressing(drive.file.addressing());
        let count = drive.file.sectors(addressing);
        let Some(first) = drive.file.sector(addressing, drive.geometry) else {
            // There is no such address to show, so the registers stay as the guest wrote them.
            self.fail(Error::NOT_FOUND);
            return;
        };
        let missing = drive.check_range(first, count).err();
        let transfer = Transfer {
            kind,
            addressing,
            next: missing.unwrap_or(first),
            left: count,
            block,
            fua: fua == Fua::Yes || !drive.write_cache,
        };
        match missing {
            None => self.start(transfer),
            Some(_) => self.fail_transfer(&transfer, Error::NOT_FOUND),
        }
    }

    fn data_set_management(&mut self) {
        let Some(drive) = &self.drives[self.active] else {
            return;
        };
        let blocks = drive.file.count16();
        let valid =
            drive.trim && drive.file.features() == TRIM && (1..=MAX_TRIM_BLOCKS).contains(&blocks);
        if !valid {
            self.fail(Error::ABORTED);
            return;
        }
        self.start(Transfer {
            kind: Kind::Trim,
            addressing: Addressing::Lba48,
            next: 0,
            left: blocks.into(),
            block: 1,
            fua: false,
        });
    }

    fn identify(&mut self) {
        if let Some(drive) = &self.drives[self.active] {
            let data = identify::data(drive);
            self.offer_block(data, None);
        }
    }

    /// SET FEATURES (ATA8-ACS, 7.47): subcommand in the features register.
    fn set_features(&mut self) {
        const WRITE_CACHE_ON: u8 = 0x02;
        const TRANSFER_MODE: u8 = 0x03;
        const LOOK_AHEAD_OFF: u8 = 0x55;
        const NO_REVERT: u8 = 0x66;
        const WRITE_CACHE_OFF: u8 = 0x82;
        const LOOK_AHEAD_ON: u8 = 0xaa;
        const REVERT: u8 = 0xcc;
        let Some(drive) = &mut self.drives[self.active] else {
            return;
        };
        match drive.file.features() {
            WRITE_CACHE_ON => drive.write_cache = true,
            WRITE_CACHE_OFF => {
                drive.write_cache = false;
                // What is cached so far must not stay so.
                self.queue(Work::Flush, Pending::Command);
                return;
            }
            TRANSFER_MODE => {
                self.set(Drive::set_transfer_mode);
                return;
            }
            LOOK_AHEAD_OFF => drive.look_ahead = false,
            LOOK_AHEAD_ON => drive.look_ahead = true,
            // What a software reset keeps is the same either way.
            NO_REVERT | REVERT => {}
            _ => {
                self.fail(Error::ABORTED);
                return;
            }
        }
        self.succeed();
    }
}

impl Kind {
    fn reading(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Pio | Protocol::PioMultiple => Self::PioRead,
            Protocol::Dma => Self::DmaRead,
        }
    }

    fn writing(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Pio | Protocol::PioMultiple => Self::PioWrite,
            Protocol::Dma => Self::DmaWrite,
        }
    }
}

impl Drive {
    /// SET MULTIPLE MODE: 0 turns it off; otherwise a power of two up to the maximum.
    fn set_multiple(&mut self) -> Result<(), Error> {
        let count = self.file.count();
        if count != 0 && (!count.is_power_of_two() || count > MAX_MULTIPLE) {
            return Err(Error::ABORTED);
        }
        self.multiple = count;
        Ok(())
    }

    /// INITIALIZE DEVICE PARAMETERS: the geometry for CHS addresses.
    fn initialize_parameters(&mut self) -> Result<(), Error> {
        let (heads, sectors) = (self.file.head() + 1, self.file.count());
        if sectors == 0 {
            return Err(Error::ABORTED);
        }
        let cylinders = self.announced() / (u64::from(heads) * u64::from(sectors));
        self.geometry = Geometry {
            cylinders: u16::try_from(cylinders).unwrap_or(u16::MAX),
            heads,
            sectors,
        };
        Ok(())
    }

    /// READ NATIVE MAX ADDRESS: the last sector that an address of this width reaches.
    fn native_max(&mut self, width: Width) -> Result<(), Error> {
        let addressing = width.addressing(Addressing::Lba28);
        let reached = match width {
            Width::Short => self.announced().min(LBA28_SECTORS + 1),
            Width::Ext => self.announced(),
        };
        let last = reached.saturating_sub(1);
        self.file.set_sector(last, addressing, self.geometry);
        Ok(())
    }

    fn seek(&mut self) -> Result<(), Error> {
        let addressing = self.file.addressing();
        match self.file.sector(addressing, self.geometry) {
            Some(sector) if sector < self.sectors => Ok(()),
            _ => Err(Error::NOT_FOUND),
        }
    }

    /// The transfer mode of SET FEATURES, in the sector count register (ATA8-ACS, table 53).
    pub(super) fn set_transfer_mode(&mut self) -> Result<(), Error> {
        const MAX_PIO: u8 = 4;
        const MAX_MULTIWORD: u8 = 2;
        const MAX_ULTRA: u8 = 5;
        let mode = self.file.count();
        match (mode >> 3, mode & 7) {
            // The default PIO mode, with or without IORDY, or a given one.
            (0, 0..=1) | (1, 0..=MAX_PIO) => {}
            (4, mode @ 0..=MAX_MULTIWORD) => self.dma_mode = DmaMode::Multiword(mode),
            (8, mode @ 0..=MAX_ULTRA) => self.dma_mode = DmaMode::Ultra(mode),
            _ => return Err(Error::ABORTED),
        }
        Ok(())
    }
}
