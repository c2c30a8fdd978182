//! The summary error log: how many commands have failed for what lies on the drive, and the last of
//! them.

use super::{LEN, REVISION};
use crate::ide::taskfile::Error;

/// Errors that the log shows.
const MAX_ERRORS: usize = 5;
/// Bytes of an error: room for five commands before it, and for how it ended.
const ENTRY: usize = 90;
/// Bytes of a command.
const COMMAND: usize = 12;

/// A command as it was written to the registers.
#[derive(Debug, Clone, Copy, Default)]
pub struct CommandRecord {
    /// Features, count, the three LBA registers, and device.
    pub registers: [u8; 6],
    /// Its code.
    pub code: u8,
    /// Milliseconds since power-on.
    pub milliseconds: u32,
}

#[derive(Debug)]
struct Failure {
    command: CommandRecord,
    registers: [u8; 7],
    hours: u16,
}

/// The log.
#[derive(Debug, Default)]
pub struct ErrorLog {
    /// The last of them, oldest first.
    last: Vec<Failure>,
    /// All of them.
    count: u16,
    unreadable: u16,
}

impl ErrorLog {
    /// A command has failed. The registers are error, count, the three LBA registers, device and
    /// status.
    pub fn add(&mut self, command: CommandRecord, registers: [u8; 7], hours: u16) {
        if self.last.len() == MAX_ERRORS {
            self.last.remove(0);
        }
        self.last.push(Failure {
            command,
            registers,
            hours,
        });
        self.count = self.count.saturating_add(1);
        if Error::from_bits_retain(registers[0]).contains(Error::UNCORRECTABLE) {
            self.unreadable = self.unreadable.saturating_add(1);
        }
    }

    /// How often something could not be read.
    pub fn unreadable(&self) -> u16 {
        self.unreadable
    }

    /// The log's sector, without its checksum.
    pub fn data(&self) -> Vec<u8> {
        /// The drive was working on a command.
        const ACTIVE: u8 = 0x03;
        let mut data = vec![0; LEN];
        data[0] = REVISION;
        data[1] = u8::try_from(self.last.len()).expect("the log has room for five");
        for (entry, failure) in data[2..].chunks_exact_mut(ENTRY).zip(&self.last) {
            // The command that failed is the last of those before the error.
            let command = &mut entry[4 * COMMAND..5 * COMMAND];
            command[1..7].copy_from_slice(&failure.command.registers);
            command[7] = failure.command.code;
            command[8..].copy_from_slice(&failure.command.milliseconds.to_le_bytes());
            let error = &mut entry[5 * COMMAND..];
            error[1..8].copy_from_slice(&failure.registers);
            error[27] = ACTIVE;
            error[28..].copy_from_slice(&failure.hours.to_le_bytes());
        }
        data[452..454].copy_from_slice(&self.count.to_le_bytes());
        data
    }
}
