//! What the workload says, on the serial line.
//!
//! Every line starts with `STRATA` and ends in ` *xx`, the exclusive or of the bytes before: the
//! kernel's own messages share the line, and the machine may be killed inside a line.
//!
//! | line | meaning |
//! |---|---|
//! | `STRATA verifying runs=N` | the system is up, the check of so many earlier runs begins |
//! | `STRATA verified acknowledged=N newer=N never=N` | units checked: held what was acknowledged as flushed, held something later, never acknowledged |
//! | `STRATA ready seed=N button=N` | writing begins; so many input devices are watched |
//! | `STRATA flushed N,N,...` | by lane (disk by disk): so many of its operations are durable |
//! | `STRATA io t=S vda=R/W/F/N sda=...` | since the last such line: longest read, write and flush in microseconds, and requests done. A request under way counts with its age |
//! | `STRATA end operations=N` | writing has ended, everything is flushed and reported |
//! | `STRATA said LINE` | a line of the script's |
//! | `STRATA pass` | all is well; power off follows |
//! | `STRATA FAIL ...` | the first wrong byte or error; power off follows |

use crate::stream::{Span, UNIT_BYTES};
use rustix::termios::{OptionalActions, tcdrain, tcgetattr, tcsetattr};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;

/// The serial line.
pub struct Serial {
    port: Mutex<File>,
}

impl Serial {
    /// Opens a terminal device and makes it pass bytes through unchanged.
    pub fn open(path: &Path) -> io::Result<Serial> {
        let port = OpenOptions::new().read(true).write(true).open(path)?;
        let mut settings = tcgetattr(&port)?;
        settings.make_raw();
        tcsetattr(&port, OptionalActions::Now, &settings)?;
        Ok(Serial {
            port: Mutex::new(port),
        })
    }

    /// Writes one line. Errors are dropped: there is nowhere to report them.
    pub fn line(&self, text: &str) {
        let check = text.bytes().fold(0, |sum, byte| sum ^ byte);
        let line = format!("{text} *{check:02x}\r\n");
        let mut port = self
            .port
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let _ = port.write_all(line.as_bytes());
    }

    /// Waits until the last byte has left.
    pub fn drain(&self) {
        let port = self
            .port
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        let _ = tcdrain(&*port);
    }
}

/// Why the workload stops.
#[derive(Debug)]
pub enum Failure {
    /// It could not start.
    Setup(String),
    /// A request was answered with an error.
    Io {
        /// Kernel name of the disk.
        disk: String,
        /// `read`, `write` or `flush`.
        request: &'static str,
        /// Where; a flush has no place.
        span: Option<Span>,
        /// What the kernel said.
        error: io::Error,
    },
    /// A unit holds something else than it must.
    Content {
        /// Kernel name of the disk.
        disk: String,
        /// The unit.
        unit: u32,
        /// What it must hold.
        expected: String,
        /// What it holds.
        found: String,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "STRATA FAIL ")?;
        match self {
            Failure::Setup(message) => write!(f, "{message}"),
            Failure::Io {
                disk,
                request,
                span: None,
                error,
            } => {
                write!(f, "{request} of {disk}: {error}")
            }
            Failure::Io {
                disk,
                request,
                span: Some(span),
                error,
            } => {
                let (offset, bytes) = (span.offset(), span.count as usize * UNIT_BYTES);
                write!(
                    f,
                    "{request} of {disk} at byte {offset}, {bytes} bytes: {error}"
                )
            }
            Failure::Content {
                disk,
                unit,
                expected,
                found,
            } => {
                let offset = u64::from(*unit) * UNIT_BYTES as u64;
                write!(
                    f,
                    "content of {disk} at byte {offset}: expected {expected}; found {found}"
                )
            }
        }
    }
}
