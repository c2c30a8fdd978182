//! One drive: what it is, and what its guest has set.

use std::mem;

use strata_block::disk::DiskInfo;

use super::{
    cdrom::{self, Cdrom},
    smart::{CommandRecord, Smart},
    taskfile::{Error, Geometry, Signature, Status, TaskFile},
};

/// Bytes in a sector.
pub const SECTOR: u64 = 512;
/// The most sectors that SET MULTIPLE MODE takes for one block.
pub const MAX_MULTIPLE: u8 = 16;

/// The DMA mode in force. It only shows in IDENTIFY; nothing here depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DmaMode {
    /// Multiword DMA, 0 to 2.
    Multiword(u8),
    /// Ultra DMA, 0 to 5.
    Ultra(u8),
}

/// What kind of drive there is for a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Media {
    /// A disk drive.
    #[default]
    Disk,
    /// A CD and DVD reader, with the disk as a disc in it.
    Cdrom,
}

/// What a drive is, beyond its disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DriveOptions {
    /// Its kind.
    pub media: Media,
    /// World wide name.
    pub wwn: Option<u64>,
    /// It says that it rotates; otherwise, that it does not. A CD drive says neither.
    pub rotational: bool,
}

/// A drive and its registers.
#[derive(Debug)]
pub struct Drive {
    /// The command block registers.
    pub file: TaskFile,
    /// Whether the last command failed.
    pub failed: bool,
    /// It says that it is ready: disks always, a CD drive after a reset only once it was spoken to.
    pub ready: bool,
    /// What makes it a CD drive.
    pub cdrom: Option<Cdrom>,
    /// Place on the controller, 0 to 3; odd ones are a cable's second.
    pub place: usize,
    /// What it is.
    pub options: DriveOptions,
    /// Of a disk, its health.
    pub smart: Smart,
    /// The last command.
    command: CommandRecord,
    /// Logical sectors in a physical one, as a power of two.
    pub physical_exponent: u8,
    /// Sectors on the drive.
    pub sectors: u64,
    /// Sectors that the drive says it has: as many as there were when its guest began to use it. A
    /// guest asks again after each reset, and drops a drive that says something else. So another
    /// size is not announced before the guest has let go of the drive.
    announced: u64,
    /// Its guest has let go of it, or is about to suspend: the last command was to stand by. Who
    /// suspends switches the controller off next.
    released: bool,
    /// Serial number, as given by the user or made up from the drive's place.
    pub serial: String,
    /// TRIM is offered.
    pub trim: bool,
    /// Geometry by which CHS addresses are understood at present.
    pub geometry: Geometry,
    /// Sectors in a block of READ and WRITE MULTIPLE; 0 if they are off.
    pub multiple: u8,
    /// Mode for DMA transfers.
    pub dma_mode: DmaMode,
    /// Writes may stay in caches until a flush.
    pub write_cache: bool,
    /// Reading ahead: only remembered.
    pub look_ahead: bool,
}

impl Drive {
    /// The drive for the disk that `info` describes, at `place` (0 to 3) on its controller.
    pub fn new(info: &DiskInfo, options: DriveOptions, place: usize) -> Self {
        let sectors = info.size / SECTOR;
        let serial = if info.serial.is_empty() {
            format!("ST{place:05}")
        } else {
            info.serial.clone()
        };
        let cdrom = (options.media == Media::Cdrom).then(|| Cdrom::new(serial.clone()));
        Self {
            file: TaskFile::new(signature(cdrom.is_some())),
            failed: false,
            ready: cdrom.is_none(),
            cdrom,
            place,
            options,
            smart: Smart::new(),
            command: CommandRecord::default(),
            physical_exponent: physical_exponent(info),
            sectors,
            announced: sectors,
            released: false,
            serial,
            trim: info.discard && !info.read_only,
            geometry: default_geometry(sectors),
            multiple: MAX_MULTIPLE,
            dma_mode: DmaMode::Ultra(5),
            write_cache: true,
            look_ahead: true,
        }
    }

    /// The geometry that the drive has unless its guest asks for another.
    pub fn default_geometry(&self) -> Geometry {
        default_geometry(self.announced)
    }

    /// Sectors that it says it has.
    pub fn announced(&self) -> u64 {
        self.announced
    }

    /// What identifies its kind.
    pub fn signature(&self) -> Signature {
        signature(self.cdrom.is_some())
    }

    /// A command is about to be carried out, as the registers say.
    pub fn record_command(&mut self, code: u8) {
        self.released = false;
        let [count, low, mid, high, device] = self.file.registers();
        self.command = CommandRecord {
            registers: [self.file.features(), count, low, mid, high, device],
            code,
            milliseconds: self.smart.milliseconds(),
        };
    }

    /// The command has failed for what lies on the drive, or does not.
    pub fn log_failure(&mut self, error: Error) {
        let [count, low, mid, high, device] = self.file.registers();
        let status = Status::READY | Status::SEEK_COMPLETE | Status::ERROR;
        let registers = [error.bits(), count, low, mid, high, device, status.bits()];
        self.smart.failed(self.command, registers);
    }

    /// Blocks of the disc in a CD drive. What is missing in the last one reads as zeros.
    pub fn blocks(&self) -> u32 {
        let blocks = self.sectors.div_ceil(cdrom::BLOCK / SECTOR);
        u32::try_from(blocks).unwrap_or(u32::MAX)
    }

    /// STANDBY and SLEEP. There is no motor to stop.
    pub fn stand_by(&mut self) {
        self.released = true;
    }

    /// The controller has been switched off.
    pub fn controller_off(&mut self) {
        self.released = false;
    }

    /// Software reset and diagnostics: the signature shows, settings stay.
    pub fn reset_registers(&mut self) {
        if mem::take(&mut self.released) {
            self.announced = self.sectors;
        }
        self.file.set_signature(self.signature());
        self.failed = false;
        self.ready = self.cdrom.is_none();
    }

    /// Power-on with a guest that knows nothing of the drive yet.
    pub fn power_on(&mut self) {
        self.announced = self.sectors;
        self.wake_up();
    }

    /// Power-on, perhaps with a guest that had suspended to memory: settings are those that a PC's
    /// firmware leaves behind.
    pub fn wake_up(&mut self) {
        self.released = false;
        self.file = TaskFile::new(self.signature());
        self.failed = false;
        self.ready = self.cdrom.is_none();
        if let Some(cdrom) = &mut self.cdrom {
            cdrom.power_on();
        }
        self.geometry = self.default_geometry();
        self.multiple = MAX_MULTIPLE;
        self.dma_mode = DmaMode::Ultra(5);
        self.write_cache = true;
        self.look_ahead = true;
    }

    /// The guest reads or writes `count` sectors from `first` on: whether all exist; if not, the
    /// first that does not.
    pub fn check_range(&self, first: u64, count: u32) -> Result<(), u64> {
        match first.checked_add(count.into()) {
            Some(end) if end <= self.sectors => Ok(()),
            _ => Err(first.max(self.sectors)),
        }
    }
}

/// Sectors of 512 bytes in a physical one, as a power of two.
fn physical_exponent(info: &DiskInfo) -> u8 {
    let sectors = u64::from(info.physical_block_size) / SECTOR;
    let exponent = sectors.checked_ilog2().unwrap_or_default();
    u8::try_from(exponent).expect("a logarithm of 64 bits")
}

fn signature(is_cdrom: bool) -> Signature {
    if is_cdrom {
        Signature::Packet
    } else {
        Signature::Ata
    }
}

/// 16 heads and 63 sectors, and as many cylinders as fit in the fields (ATA/ATAPI-6, 6.2).
fn default_geometry(sectors: u64) -> Geometry {
    const HEADS: u8 = 16;
    const PER_TRACK: u8 = 63;
    const MAX_CYLINDERS: u16 = 16_383;
    let cylinders = sectors / (u64::from(HEADS) * u64::from(PER_TRACK));
    Geometry {
        cylinders: u16::try_from(cylinders).map_or(MAX_CYLINDERS, |n| n.min(MAX_CYLINDERS)),
        heads: HEADS,
        sectors: PER_TRACK,
    }
}
