//! Errors of the image layer: what failed, on which file, at which offset, and why.

use std::{fmt, io, path::PathBuf};

/// Why a file cannot grow. Somebody may make room, so the same write is worth another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// The file system is full, or the user's quota is used up (ENOSPC, EDQUOT).
    #[error("no space left on the host's file system")]
    Full,
    /// The file has the largest size that this process may give it (EFBIG, `RLIMIT_FSIZE`).
    #[error("the host lets the file grow no further (ulimit -f)")]
    SizeLimit,
    /// The file has the largest size that its file system knows (EFBIG).
    #[error("the host's file system has no larger files")]
    FileSystemLimit,
    /// What holds the bytes is a device, and ends there (ENOSPC).
    #[error("no space left: the device ends there")]
    Device,
}

/// An error of one guest or job request. The kind is what a device can report to its guest.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IoError {
    /// The range does not lie within the disk, or is not aligned to its block size.
    #[error("request outside the disk or misaligned")]
    OutOfRange,
    /// The disk or layer is read-only.
    #[error("the disk is read-only")]
    ReadOnly,
    /// There is no room for what was to be written.
    #[error("{file}: {why}")]
    NoSpace {
        /// The file that could not grow.
        file: PathBuf,
        /// What is in the way.
        why: NoRoom,
    },
    /// The host answered with an I/O error.
    #[error("{file}: {what} at offset {offset}: {source}")]
    Host {
        /// The file that the call was for.
        file: PathBuf,
        /// The call: "read", "write", "flush", ...
        what: &'static str,
        /// Byte offset in the file.
        offset: u64,
        /// The host's error.
        source: std::sync::Arc<io::Error>,
    },
    /// A flush has failed, this one or an earlier one since the file was opened, for whatever
    /// reason.
    #[error(
        "{file}: flush: {source}; what was written since the last flush may be lost, and no flush \
         succeeds until the file is opened again"
    )]
    Lost {
        /// The file that the flush was for.
        file: PathBuf,
        /// Why the first one failed.
        source: std::sync::Arc<io::Error>,
    },
    /// The image's metadata contradicts itself; nothing was written.
    #[error("{file}: corrupt image: {what}")]
    Corrupt {
        /// The image.
        file: PathBuf,
        /// What is wrong, with offsets.
        what: String,
    },
    /// An earlier metadata write failed and the layer stopped writing (rule W6).
    #[error("{file}: writing has stopped after a metadata write error")]
    Stopped {
        /// The image.
        file: PathBuf,
    },
    /// The image uses a feature that cannot be written (or read) yet.
    #[error("{file}: {what} is not supported")]
    Unsupported {
        /// The image.
        file: PathBuf,
        /// The feature.
        what: String,
    },
    /// The job was cancelled or the machine is shutting down.
    #[error("operation canceled")]
    Cancelled,
}

/// An error of opening, creating or changing an image or a graph: one clear line for people.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A host call on a file failed.
    #[error("could not {what} '{file}': {source}")]
    File {
        /// What was tried: "open", "create", ...
        what: &'static str,
        /// The file.
        file: PathBuf,
        /// The host's error.
        source: io::Error,
    },
    /// The file is not an image that can be used as asked; the text says why and what to do.
    #[error("'{file}': {why}")]
    Image {
        /// The image.
        file: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// Another program, or another part of this one, uses the image in a way that does not go
    /// together with what was asked (the text is QEMU's).
    #[error(
        "could not open '{file}': Failed to get {lock} lock. Is another process using the image \
         [{file}]?{}", held_by(.holder.as_ref())
    )]
    Locked {
        /// The image.
        file: PathBuf,
        /// The lock: `"write"`, `shared "write"`, ...
        lock: &'static str,
        /// Who holds a lock against it, if the system knows.
        holder: Option<Holder>,
    },
    /// A backing file lies above the image that names it (the text is QEMU's).
    #[error("Backing file '{file}' creates an infinite loop.")]
    Loop {
        /// The backing file.
        file: PathBuf,
    },
    /// An I/O error while reading or writing metadata.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// Result of opening, creating or changing an image.
pub type Result<T> = std::result::Result<T, Error>;
/// Result of one request.
pub type IoResult<T> = std::result::Result<T, IoError>;

/// A process that holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub pid: u32,
    /// Its name (`/proc/PID/comm`).
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pid == std::process::id() {
            return f.write_str("This process");
        }
        write!(f, "Process {} ({})", self.pid, self.name)
    }
}

fn held_by(holder: Option<&Holder>) -> String {
    holder.map_or_else(String::new, |holder| format!(" {holder} has it open."))
}
