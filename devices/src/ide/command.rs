//! Command codes (ATA8-ACS, annex B), and what they mean here.

use super::taskfile::Addressing;

/// How the data of a command travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Through the data port, a sector per interrupt.
    Pio,
    /// Through the data port, a block of sectors per interrupt.
    PioMultiple,
    /// By the bus master.
    Dma,
}

/// A command that the drive knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// READ SECTOR(S), READ MULTIPLE, READ DMA and their 48-bit forms.
    Read(Protocol, Width),
    /// WRITE SECTOR(S), WRITE MULTIPLE, WRITE DMA, their 48-bit and FUA forms.
    Write(Protocol, Width, Fua),
    /// READ VERIFY SECTOR(S) and its 48-bit form.
    Verify(Width),
    /// FLUSH CACHE and its 48-bit form.
    Flush,
    /// DATA SET MANAGEMENT.
    DataSetManagement,
    /// IDENTIFY DEVICE.
    Identify,
    /// SET FEATURES.
    SetFeatures,
    /// SET MULTIPLE MODE.
    SetMultiple,
    /// INITIALIZE DEVICE PARAMETERS.
    InitializeParameters,
    /// READ NATIVE MAX ADDRESS and its 48-bit form.
    NativeMax(Width),
    /// SEEK.
    Seek,
    /// RECALIBRATE.
    Recalibrate,
    /// CHECK POWER MODE.
    CheckPower,
    /// STANDBY, its IMMEDIATE form, and SLEEP.
    StandBy,
    /// IDLE and its IMMEDIATE form.
    Idle,
    /// SMART.
    Smart,
    /// READ LOG EXT.
    ReadLogExt,
    /// EXECUTE DEVICE DIAGNOSTIC.
    Diagnostic,
    /// What only a CD drive knows.
    Cdrom(CdromCommand),
}

/// A command that means something else to a CD drive than to a disk, or nothing to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CdromCommand {
    /// PACKET.
    Packet,
    /// IDENTIFY PACKET DEVICE.
    Identify,
    /// DEVICE RESET.
    DeviceReset,
    /// SET FEATURES.
    SetFeatures,
    /// IDENTIFY DEVICE and READ SECTOR(S), which are aborted with the signature in the registers.
    NotAtapi,
}

/// DEVICE RESET, which a CD drive takes while it is busy.
pub const DEVICE_RESET: u8 = 0x08;

/// Whether a command uses the previous values of the registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// 28-bit LBA or CHS.
    Short,
    /// 48-bit LBA.
    Ext,
}

/// Whether a write must be durable when it completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fua {
    /// As the write cache is set.
    No,
    /// Force unit access.
    Yes,
}

impl Command {
    /// A disk's command with this code, or `None` for one that is aborted: unknown ones, and NOP,
    /// DEVICE RESET and IDENTIFY PACKET DEVICE, which a drive without those features aborts.
    pub fn decode(code: u8) -> Option<Self> {
        use Protocol::{Dma, Pio, PioMultiple};
        use Width::{Ext, Short};
        Some(match code {
            0x06 => Self::DataSetManagement,
            0x10..=0x1f => Self::Recalibrate,
            0x20 | 0x21 => Self::Read(Pio, Short),
            0x24 => Self::Read(Pio, Ext),
            0x25 => Self::Read(Dma, Ext),
            0x27 => Self::NativeMax(Ext),
            0x29 => Self::Read(PioMultiple, Ext),
            0x2f => Self::ReadLogExt,
            0x30 | 0x31 => Self::Write(Pio, Short, Fua::No),
            0x34 => Self::Write(Pio, Ext, Fua::No),
            0x35 => Self::Write(Dma, Ext, Fua::No),
            0x39 => Self::Write(PioMultiple, Ext, Fua::No),
            0x3d => Self::Write(Dma, Ext, Fua::Yes),
            0x40 | 0x41 => Self::Verify(Short),
            0x42 => Self::Verify(Ext),
            0x70..=0x7f => Self::Seek,
            0x90 => Self::Diagnostic,
            0x91 => Self::InitializeParameters,
            0x94 | 0x96 | 0x99 | 0xe0 | 0xe2 | 0xe6 => Self::StandBy,
            0x95 | 0x97 | 0xe1 | 0xe3 => Self::Idle,
            0x98 | 0xe5 => Self::CheckPower,
            0xb0 => Self::Smart,
            0xc4 => Self::Read(PioMultiple, Short),
            0xc5 => Self::Write(PioMultiple, Short, Fua::No),
            0xc6 => Self::SetMultiple,
            0xc8 | 0xc9 => Self::Read(Dma, Short),
            0xca | 0xcb => Self::Write(Dma, Short, Fua::No),
            0xce => Self::Write(PioMultiple, Ext, Fua::Yes),
            0xe7 | 0xea => Self::Flush,
            0xec => Self::Identify,
            0xef => Self::SetFeatures,
            0xf8 => Self::NativeMax(Short),
            _ => return None,
        })
    }

    /// The same for a CD drive.
    pub fn decode_cdrom(code: u8) -> Option<Self> {
        Some(match code {
            DEVICE_RESET => Self::Cdrom(CdromCommand::DeviceReset),
            0x20 | 0xec => Self::Cdrom(CdromCommand::NotAtapi),
            0xa0 => Self::Cdrom(CdromCommand::Packet),
            0xa1 => Self::Cdrom(CdromCommand::Identify),
            0xef => Self::Cdrom(CdromCommand::SetFeatures),
            0x90 | 0xe0..=0xe3 | 0xe5 | 0xe6 => return Self::decode(code),
            _ => return None,
        })
    }
}

impl Width {
    /// The addressing of a command of this width, where `short` is what the device register says.
    pub fn addressing(self, short: Addressing) -> Addressing {
        match self {
            Self::Short => short,
            Self::Ext => Addressing::Lba48,
        }
    }
}
