//! SMART (ATA8-ACS, 7.53 and annex A): what the drive says of its own health.
//!
//! There is no medium of its own that could wear out or be tested, so attributes show what is true
//! of any such drive and what it has counted, and a self-test ends at once, and well.

mod error_log;

use std::time::Instant;

pub use self::error_log::CommandRecord;
use self::error_log::ErrorLog;
use crate::checksum::checksum;

/// Bytes of each structure.
const LEN: usize = 512;
/// Revision of attributes, thresholds and logs.
const REVISION: u8 = 1;
/// Entries of attributes and thresholds start here, at this distance.
const ENTRIES: (usize, usize) = (2, 12);
/// Self-tests that the log remembers.
const MAX_TESTS: usize = 21;

/// A self-test that has been made.
#[derive(Debug, Clone, Copy)]
struct TestRecord {
    kind: u8,
    hours: u16,
}

/// A value of the drive that may fall below a threshold.
struct Attribute {
    id: u8,
    /// Bit 0: a threshold that is reached foretells a failure; bit 1: kept up to date at all times.
    flags: u16,
    value: u8,
    threshold: u8,
    raw: u64,
}

/// The drive's health.
#[derive(Debug)]
pub struct Smart {
    enabled: bool,
    autosave: bool,
    off_line: bool,
    tests: Vec<TestRecord>,
    errors: ErrorLog,
    since: Instant,
}

impl Smart {
    /// Of a new drive, which is switched on now.
    pub fn new() -> Self {
        Self {
            enabled: true,
            autosave: true,
            off_line: false,
            tests: Vec::new(),
            errors: ErrorLog::default(),
            since: Instant::now(),
        }
    }

    /// SMART ENABLE OPERATIONS and DISABLE OPERATIONS. The drive remembers it without power.
    pub fn enable(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    /// Whether SMART is enabled.
    pub fn is_enabled(&self) -> bool {
        self.enabled
    }

    /// SMART ENABLE/DISABLE ATTRIBUTE AUTOSAVE: what the sector count register says.
    ///
    /// # Errors
    /// It is neither of both.
    pub fn set_autosave(&mut self, count: u8) -> Result<(), Invalid> {
        self.autosave = match count {
            0x00 => false,
            0xf1 => true,
            _ => return Err(Invalid),
        };
        Ok(())
    }

    /// SMART EXECUTE OFF-LINE IMMEDIATE: what the LBA low register says.
    ///
    /// # Errors
    /// There is no such test.
    pub fn execute(&mut self, subcommand: u8) -> Result<(), Invalid> {
        match subcommand {
            // Off-line routine: for attributes that are only brought up to date then.
            0x00 => self.off_line = true,
            // Short and extended self-test, in the background or not.
            0x01 | 0x02 | 0x81 | 0x82 => {
                if self.tests.len() == MAX_TESTS {
                    self.tests.remove(0);
                }
                let hours = self.hours();
                self.tests.push(TestRecord {
                    kind: subcommand,
                    hours,
                });
            }
            // Give up the test under way, which has ended already.
            0x7f => {}
            _ => return Err(Invalid),
        }
        Ok(())
    }

    /// A command has failed, as the registers now show.
    pub fn failed(&mut self, command: CommandRecord, registers: [u8; 7]) {
        let hours = self.hours();
        self.errors.add(command, registers, hours);
    }

    /// Milliseconds since the drive was switched on; they wrap after 49 days.
    pub fn milliseconds(&self) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "the counter wraps")]
        {
            self.since.elapsed().as_millis() as u32
        }
    }

    /// Hours that the drive has been on.
    fn hours(&self) -> u16 {
        let hours = self.since.elapsed().as_secs() / 3600;
        u16::try_from(hours).unwrap_or(u16::MAX)
    }

    fn attributes(&self) -> [Attribute; 7] {
        /// Both of the flags.
        const FORETELLS: u16 = 0x0003;
        const AGES: u16 = 0x0002;
        /// Degrees Celsius.
        const TEMPERATURE: u8 = 31;
        let unreadable = u64::from(self.errors.unreadable());
        let attribute = |id, flags, threshold, raw| Attribute {
            id,
            flags,
            value: 100,
            threshold,
            raw,
        };
        [
            attribute(1, FORETELLS, 6, 0),  // read errors that were corrected
            attribute(5, FORETELLS, 36, 0), // sectors moved to another place
            attribute(9, AGES, 0, self.hours().into()),
            attribute(12, AGES, 0, 1), // power cycles
            attribute(187, AGES, 0, unreadable),
            Attribute {
                value: 100 - TEMPERATURE,
                ..attribute(190, AGES, 0, TEMPERATURE.into())
            },
            attribute(197, AGES, 0, 0), // sectors that may have to be moved
        ]
    }

    /// SMART READ DATA.
    pub fn data(&self) -> Vec<u8> {
        const OFF_LINE_DONE: u8 = 0x02;
        /// Off-line routine and self-tests.
        const CAN_TEST: u8 = 0x11;
        /// Attributes are saved, also at all times.
        const SAVES: u8 = 0x03;
        const LOGS_ERRORS: u8 = 0x01;
        const MINUTES: u8 = 1;
        let mut data = vec![0; LEN];
        data[0] = REVISION;
        for (at, attribute) in (0..).map(entry).zip(self.attributes()) {
            let worst = attribute.value;
            data[at] = attribute.id;
            data[at + 1..at + 3].copy_from_slice(&attribute.flags.to_le_bytes());
            data[at + 3..at + 5].copy_from_slice(&[attribute.value, worst]);
            data[at + 5..at + 11].copy_from_slice(&attribute.raw.to_le_bytes()[..6]);
        }
        data[362] = if self.off_line { OFF_LINE_DONE } else { 0 };
        data[367] = CAN_TEST;
        data[368] = SAVES;
        data[370] = LOGS_ERRORS;
        data[372..374].fill(MINUTES);
        with_checksum(data)
    }

    /// SMART READ THRESHOLDS.
    pub fn thresholds(&self) -> Vec<u8> {
        let mut data = vec![0; LEN];
        data[0] = REVISION;
        for (at, attribute) in (0..).map(entry).zip(self.attributes()) {
            data[at..at + 2].copy_from_slice(&[attribute.id, attribute.threshold]);
        }
        with_checksum(data)
    }

    /// SMART READ LOG: `sectors` sectors of log `address`.
    ///
    /// # Errors
    /// There is no such log, or not so much of it.
    pub fn log(&self, address: u8, sectors: u8) -> Result<Vec<u8>, Invalid> {
        const DIRECTORY: u8 = 0x00;
        const ERRORS: u8 = 0x01;
        const SELF_TESTS: u8 = 0x06;
        if sectors != 1 {
            return Err(Invalid);
        }
        match address {
            DIRECTORY => {
                let mut data = vec![0; LEN];
                data[0] = REVISION;
                for log in [ERRORS, SELF_TESTS] {
                    data[2 * usize::from(log)] = 1; // sector
                }
                Ok(data)
            }
            ERRORS => Ok(with_checksum(self.errors.data())),
            SELF_TESTS => Ok(with_checksum(self.self_tests())),
            _ => Err(Invalid),
        }
    }

    /// The log of self-tests: all of them have ended without an error.
    fn self_tests(&self) -> Vec<u8> {
        const ENTRY: usize = 24;
        let mut data = vec![0; LEN];
        data[0] = REVISION;
        for (at, test) in (2..).step_by(ENTRY).zip(&self.tests) {
            data[at] = test.kind;
            data[at + 2..at + 4].copy_from_slice(&test.hours.to_le_bytes());
        }
        data[508] = u8::try_from(self.tests.len()).expect("the log has room for 21");
        data
    }
}

/// What was asked for makes no sense: the command is aborted.
#[derive(Debug, PartialEq, Eq)]
pub struct Invalid;

fn entry(number: usize) -> usize {
    let (start, distance) = ENTRIES;
    start + number * distance
}

/// The last byte makes the sum of all zero.
fn with_checksum(mut data: Vec<u8>) -> Vec<u8> {
    data[LEN - 1] = checksum(&data);
    data
}

#[cfg(test)]
mod tests;
