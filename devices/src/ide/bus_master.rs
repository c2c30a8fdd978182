//! The bus master engine of one channel: its registers (PIIX3 datasheet, 2.7) and its tables of
//! physical region descriptors (Programming Interface for Bus Master IDE Controller, 1.0).

use std::sync::Arc;

use bitflags::bitflags;
use strata_exec::mem::{SgList, to_usize};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::guest_memory::guest_list;

/// Ports of one channel's engine; the second channel's follow the first's.
pub const LEN: u64 = 8;

const COMMAND: u64 = 0;
const STATUS: u64 = 2;
const TABLE: u64 = 4;

/// Command register: the engine runs.
const START: u8 = 1 << 0;
/// Command register: the engine writes to memory. What moves which way is the drive's command's
/// business.
const TO_MEMORY: u8 = 1 << 3;

bitflags! {
    /// The status register.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Status: u8 {
        /// The engine has something to do.
        const ACTIVE = 1 << 0;
        /// Memory could not be reached.
        const ERROR = 1 << 1;
        /// The drive has raised its interrupt.
        const INTERRUPT = 1 << 2;
        /// Firmware or driver say that drive 0 can do DMA.
        const DRIVE0 = 1 << 5;
        /// The same of drive 1.
        const DRIVE1 = 1 << 6;
        /// What a write of 1 clears.
        const CLEARABLE = Self::ERROR.bits() | Self::INTERRUPT.bits();
        /// What a write sets as it is.
        const WRITABLE = Self::DRIVE0.bits() | Self::DRIVE1.bits();
    }
}

/// What a write to the engine's registers asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// Start moving data.
    Started,
    /// Stop, whatever is under way.
    Stopped,
}

/// The registers.
#[derive(Debug, Clone)]
pub struct BusMaster {
    command: u8,
    status: Status,
    table: [u8; 4],
}

impl BusMaster {
    /// The registers after a reset, with the bits that firmware sets for the drives that exist.
    pub fn new(drives: [bool; 2]) -> Self {
        let mut status = Status::empty();
        status.set(Status::DRIVE0, drives[0]);
        status.set(Status::DRIVE1, drives[1]);
        Self {
            command: 0,
            status,
            table: [0; 4],
        }
    }

    /// Reads one register; `None` where there is none.
    pub fn read(&self, offset: u64) -> Option<u8> {
        match offset {
            COMMAND => Some(self.command),
            STATUS => Some(self.status.bits()),
            TABLE.. => self.table.get(to_usize(offset - TABLE)).copied(),
            _ => None,
        }
    }

    /// Writes one register.
    pub fn write(&mut self, offset: u64, value: u8) -> Change {
        match offset {
            COMMAND => return self.write_command(value),
            STATUS => {
                let value = Status::from_bits_truncate(value);
                self.status -= value & Status::CLEARABLE;
                self.status = (self.status - Status::WRITABLE) | (value & Status::WRITABLE);
            }
            TABLE.. => {
                if let Some(byte) = self.table.get_mut(to_usize(offset - TABLE)) {
                    *byte = value;
                    // A table begins at a multiple of four.
                    self.table[0] &= !3;
                }
            }
            _ => {}
        }
        Change::None
    }

    fn write_command(&mut self, value: u8) -> Change {
        let before = self.command & START;
        self.command = value & (START | TO_MEMORY);
        match (before, value & START) {
            (0, START) => {
                self.status |= Status::ACTIVE;
                Change::Started
            }
            (START, 0) => {
                self.status -= Status::ACTIVE;
                Change::Stopped
            }
            _ => Change::None,
        }
    }

    /// Whether the engine is ready to move what a drive offers or wants.
    pub fn is_active(&self) -> bool {
        self.status.contains(Status::ACTIVE)
    }

    /// Guest physical address of the table.
    pub fn table(&self) -> u32 {
        u32::from_le_bytes(self.table)
    }

    /// The drive has raised its interrupt.
    pub fn interrupt(&mut self) {
        self.status |= Status::INTERRUPT;
    }

    /// What moving data by a table has come to.
    pub fn moved(&mut self, end: TableEnd) {
        match end {
            // More is described than the drive wanted: still active, as the specification has it.
            TableEnd::More => {}
            TableEnd::Exact | TableEnd::Short => self.status -= Status::ACTIVE,
            TableEnd::Fault => {
                self.status -= Status::ACTIVE;
                self.status |= Status::ERROR;
            }
        }
    }
}

/// How far a table reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableEnd {
    /// It described exactly the bytes of the transfer.
    Exact,
    /// It described more.
    More,
    /// It ended before the transfer did.
    Short,
    /// A descriptor, or what one describes, is not memory.
    Fault,
}

/// The memory of a transfer.
pub struct Regions {
    /// As many bytes as the table has room for and the transfer wants.
    pub list: SgList,
    /// How far the table reached.
    pub end: TableEnd,
}

/// Entries in the largest table, one of 64 KiB.
const MAX_ENTRIES: u32 = 8192;

/// Follows the table at `table` until `bytes` are described. Every descriptor is read once.
///
/// The address of the next descriptor wraps at a boundary of 64 KiB, where the hardware's counter
/// does; so a table without end costs at most [`MAX_ENTRIES`] steps and counts as too short.
pub fn gather(memory: &Arc<GuestMemoryMmap>, table: u32, bytes: u64) -> Regions {
    const END_OF_TABLE: u32 = 1 << 31;
    let fault = || Regions {
        list: SgList::empty(),
        end: TableEnd::Fault,
    };
    let dword = |index: u32| {
        let offset = (table & 0xffff).wrapping_add(4 * index) & 0xffff;
        let address = GuestAddress(u64::from(table & 0xffff_0000 | offset));
        memory.read_obj::<u32>(address).ok().map(u32::from_le)
    };
    let (mut pieces, mut wanted) = (Vec::new(), bytes);
    let mut end = TableEnd::Short;
    for entry in 0..MAX_ENTRIES {
        let (Some(base), Some(flags)) = (dword(2 * entry), dword(2 * entry + 1)) else {
            return fault();
        };
        // Bit 0 of address and count does not exist, and a count of 0 is 64 KiB.
        let count = match flags & 0xfffe {
            0 => 0x1_0000,
            count => count,
        };
        let used = u32::try_from(wanted).map_or(count, |wanted| count.min(wanted));
        pieces.push((GuestAddress((base & !1).into()), used));
        wanted -= u64::from(used);
        let last = flags & END_OF_TABLE != 0;
        if wanted == 0 {
            end = if last && used == count {
                TableEnd::Exact
            } else {
                TableEnd::More
            };
            break;
        }
        if last {
            break;
        }
    }
    let Some(list) = guest_list(memory, &pieces) else {
        return fault();
    };
    Regions { list, end }
}
