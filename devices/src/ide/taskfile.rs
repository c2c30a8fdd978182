//! The command block registers of one drive (ATA/ATAPI-6, chapter 7), by name.

use bitflags::bitflags;

/// Offsets of the command block's registers from its first port.
pub mod port {
    /// Data, 16 bits wide (32 with accesses of that size).
    pub const DATA: u64 = 0;
    /// Error when read, features when written.
    pub const ERROR: u64 = 1;
    /// Sector count.
    pub const COUNT: u64 = 2;
    /// LBA bits 0 to 7, or the sector number.
    pub const LBA_LOW: u64 = 3;
    /// LBA bits 8 to 15, or the cylinder's low byte.
    pub const LBA_MID: u64 = 4;
    /// LBA bits 16 to 23, or the cylinder's high byte.
    pub const LBA_HIGH: u64 = 5;
    /// Device: which drive, how addresses are meant, and LBA bits 24 to 27 or the head.
    pub const DEVICE: u64 = 6;
    /// Status when read, command when written.
    pub const STATUS: u64 = 7;
}

bitflags! {
    /// The status register (7.15).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Status: u8 {
        /// The drive is busy; nothing else means anything.
        const BUSY = 1 << 7;
        /// The drive takes commands.
        const READY = 1 << 6;
        /// Seek complete, as old drivers want to see it.
        const SEEK_COMPLETE = 1 << 4;
        /// The drive wants data, or has some.
        const DATA_REQUEST = 1 << 3;
        /// The last command failed; the error register says how.
        const ERROR = 1 << 0;
    }
}

bitflags! {
    /// The error register after a command (7.11).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Error: u8 {
        /// Uncorrectable data.
        const UNCORRECTABLE = 1 << 6;
        /// There is no sector at this address.
        const NOT_FOUND = 1 << 4;
        /// The command is not supported, or cannot be carried out.
        const ABORTED = 1 << 2;
    }
}

/// What a drive that passed its diagnostics puts into the error register (9.16).
const DIAGNOSTIC_PASSED: u8 = 1;
/// Device register: addresses are LBAs.
const DEVICE_LBA: u8 = 1 << 6;
/// Device register: drive 1.
const DEVICE_SELECT: u8 = 1 << 4;
const DEVICE_LOW: u8 = 0x0f;

/// What identifies the kind of a drive after a reset or its diagnostics (9.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signature {
    /// A disk.
    Ata,
    /// A drive that takes PACKET commands.
    Packet,
}

/// How a command says where its first sector is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// Cylinder, head and sector.
    Chs,
    /// 28-bit LBA.
    Lba28,
    /// 48-bit LBA, with the previous values of the registers.
    Lba48,
}

/// Logical geometry for CHS addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Cylinders, at most 16,383 by default.
    pub cylinders: u16,
    /// Heads, 1 to 16.
    pub heads: u8,
    /// Sectors per track, 1 to 255.
    pub sectors: u8,
}

/// A register that remembers the value before the last one, for 48-bit commands.
#[derive(Debug, Clone, Copy, Default)]
struct Latch {
    current: u8,
    previous: u8,
}

impl Latch {
    fn write(&mut self, value: u8) {
        self.previous = self.current;
        self.current = value;
    }

    fn get(self, previous: bool) -> u8 {
        if previous {
            self.previous
        } else {
            self.current
        }
    }
}

/// The registers of one drive, but for data, status and command.
#[derive(Debug, Clone)]
pub struct TaskFile {
    features: Latch,
    count: Latch,
    lba: [Latch; 3],
    device: u8,
    error: u8,
}

impl TaskFile {
    /// The registers after a reset.
    pub fn new(signature: Signature) -> Self {
        let mut file = Self {
            features: Latch::default(),
            count: Latch::default(),
            lba: [Latch::default(); 3],
            device: 0,
            error: 0,
        };
        file.set_signature(signature);
        file
    }

    /// Shows the signature.
    pub fn set_signature(&mut self, signature: Signature) {
        let latch = |current| Latch {
            current,
            previous: 0,
        };
        self.error = DIAGNOSTIC_PASSED;
        self.count = latch(1);
        let [mid, high] = match signature {
            Signature::Ata => [0, 0],
            Signature::Packet => [0x14, 0xeb],
        };
        self.lba = [latch(1), latch(mid), latch(high)];
        self.device = 0;
    }

    /// Reads a register; `previous` asks for what it held before the last write (the HOB bit).
    pub fn read(&self, register: u64, previous: bool) -> u8 {
        match register {
            port::ERROR => self.error,
            port::COUNT => self.count.get(previous),
            port::LBA_LOW => self.lba[0].get(previous),
            port::LBA_MID => self.lba[1].get(previous),
            port::LBA_HIGH => self.lba[2].get(previous),
            port::DEVICE => self.device,
            _ => 0xff,
        }
    }

    /// Writes a register.
    pub fn write(&mut self, register: u64, value: u8) {
        match register {
            port::ERROR => self.features.write(value),
            port::COUNT => self.count.write(value),
            port::LBA_LOW => self.lba[0].write(value),
            port::LBA_MID => self.lba[1].write(value),
            port::LBA_HIGH => self.lba[2].write(value),
            port::DEVICE => self.device = value,
            _ => {}
        }
    }

    /// The features register.
    pub fn features(&self) -> u8 {
        self.features.current
    }

    /// LBA bits 0 to 7.
    pub fn lba_low(&self) -> u8 {
        self.lba[0].current
    }

    /// Count, the three LBA registers and device, as they are.
    pub fn registers(&self) -> [u8; 5] {
        let [low, mid, high] = self.lba.map(|latch| latch.current);
        [self.count.current, low, mid, high, self.device]
    }

    /// The sector count register as it is.
    pub fn count(&self) -> u8 {
        self.count.current
    }

    /// Both values of the sector count register, for commands that count something else than
    /// sectors.
    pub fn count16(&self) -> u16 {
        u16::from_be_bytes([self.count.previous, self.count.current])
    }

    /// Puts a result into the sector count register.
    pub fn set_count(&mut self, count: u8) {
        self.count = Latch {
            current: count,
            previous: 0,
        };
    }

    /// PACKET's limit for a block at the data port, and the size of the one that is there.
    pub fn byte_count(&self) -> u16 {
        u16::from_le_bytes([self.lba[1].current, self.lba[2].current])
    }

    /// Sets [`TaskFile::byte_count`].
    pub fn set_byte_count(&mut self, bytes: u16) {
        for (latch, current) in self.lba[1..].iter_mut().zip(bytes.to_le_bytes()) {
            *latch = Latch {
                current,
                previous: 0,
            };
        }
    }

    /// The head number in the device register.
    pub fn head(&self) -> u8 {
        self.device & DEVICE_LOW
    }

    /// Which drive a value of the device register selects.
    pub fn selects(device: u8) -> usize {
        usize::from(device & DEVICE_SELECT != 0)
    }

    /// How a command that is not a 48-bit one addresses.
    pub fn addressing(&self) -> Addressing {
        if self.device & DEVICE_LBA != 0 {
            Addressing::Lba28
        } else {
            Addressing::Chs
        }
    }

    /// Number of sectors: 1 to 256, or 1 to 65,536 with 48 bits; a register of 0 is the largest.
    pub fn sectors(&self, addressing: Addressing) -> u32 {
        let (count, most) = match addressing {
            Addressing::Lba48 => (u32::from(self.count16()), 1 << 16),
            Addressing::Lba28 | Addressing::Chs => (u32::from(self.count()), 1 << 8),
        };
        if count == 0 { most } else { count }
    }

    /// The first sector, or `None` if there is no such cylinder, head or sector.
    pub fn sector(&self, addressing: Addressing, geometry: Geometry) -> Option<u64> {
        let [low, mid, high] = self.lba;
        let bytes = |latches: [u8; 6], device: u8| {
            let [a, b, c, d, e, f] = latches;
            u64::from_le_bytes([a, b, c, d | device, e, f, 0, 0])
        };
        match addressing {
            Addressing::Lba48 => Some(bytes(
                [
                    low.current,
                    mid.current,
                    high.current,
                    low.previous,
                    mid.previous,
                    high.previous,
                ],
                0,
            )),
            Addressing::Lba28 => Some(bytes(
                [low.current, mid.current, high.current, 0, 0, 0],
                self.head(),
            )),
            Addressing::Chs => {
                let cylinder = u16::from_le_bytes([mid.current, high.current]);
                let head = self.head();
                let valid = (1..=geometry.sectors).contains(&low.current)
                    && head < geometry.heads
                    && cylinder < geometry.cylinders;
                let track = u64::from(cylinder) * u64::from(geometry.heads) + u64::from(head);
                valid.then(|| track * u64::from(geometry.sectors) + u64::from(low.current) - 1)
            }
        }
    }

    /// Puts the address of a sector into the registers, as the last one done or the first in error.
    pub fn set_sector(&mut self, sector: u64, addressing: Addressing, geometry: Geometry) {
        let [a, b, c, d, e, f, ..] = sector.to_le_bytes();
        let mut put = |current: [u8; 3], previous: [u8; 3]| {
            for (latch, (current, previous)) in
                self.lba.iter_mut().zip(current.into_iter().zip(previous))
            {
                *latch = Latch { current, previous };
            }
        };
        match addressing {
            Addressing::Lba48 => put([a, b, c], [d, e, f]),
            Addressing::Lba28 => {
                put([a, b, c], [0; 3]);
                self.set_head(d);
            }
            Addressing::Chs => {
                let track = sector / u64::from(geometry.sectors);
                let heads = u64::from(geometry.heads);
                let [low, high, ..] = (track / heads).to_le_bytes();
                let [within, ..] = (sector % u64::from(geometry.sectors)).to_le_bytes();
                let [head, ..] = (track % heads).to_le_bytes();
                put([within + 1, low, high], [0; 3]);
                self.set_head(head);
            }
        }
    }

    fn set_head(&mut self, value: u8) {
        self.device = self.device & !DEVICE_LOW | value & DEVICE_LOW;
    }

    /// Puts what went wrong into the error register.
    pub fn set_error(&mut self, error: Error) {
        self.error = error.bits();
    }
}
