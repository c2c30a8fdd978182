//! [`Storage`]: the bytes of one file.
//!
//! The seam between formats and what holds their bytes. A closed enum, so that a reader can go from
//! a call to what it does.

#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]

mod descriptor_limit;
mod direct;
pub mod error;
mod file;
mod files;
mod hints;
mod holder;
mod identity;
mod lock;
#[cfg(feature = "sim")]
pub mod lossy;
mod lost;
pub mod nbd;
mod option_list;
mod ranges;
mod ring;
#[cfg(feature = "sim")]
mod sim;
mod size_limit;
mod unnamed;
mod vectored;
mod watch;

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

pub use descriptor_limit::raise_descriptor_limit;
pub use file::{Aio, FileOptions, FileStorage};
pub use files::Files;
pub use hints::FileHints;
pub use identity::Identity;
pub use lock::Access;
use nbd::NbdOptions;
pub use nbd::{DEFAULT_RECONNECT_DELAY, NbdStorage, is_nbd_uri};
pub use option_list::split_options;
#[cfg(feature = "sim")]
pub use sim::{Content, Faults, SimDirectory, SimFile};
pub use size_limit::outlive_size_limit;
pub use unnamed::{is_unnamed, unnamed_path};

use strata_exec::{
    Executor,
    mem::{SgList, to_usize},
};

use crate::error::{Error, IoError, IoResult, Result};

/// Bytes at the start of a file that say which format it has.
const FORMAT_HEAD: u64 = 512;

/// The bytes of one file; cheap to clone. Offsets and lengths are bytes.
///
/// Reads past the end give zeros; writes past the end grow the file. A write is durable after a
/// [`Storage::flush`] that was started when the write had completed.
///
/// ```
/// use std::time::Duration;
/// use strata_exec::Executor;
/// use strata_storage::{FileOptions, Storage, error::Error};
///
/// let directory = tempfile::tempdir()?;
/// let path = directory.path().join("file");
/// std::fs::write(&path, "12345678")?;
/// let exec = Executor::new()?;
/// let opener = exec.clone();
/// let bytes = exec.block_on(async move {
///     let file = Storage::open(&opener, &path, FileOptions::default(), Duration::ZERO).await?;
///     file.write_vec(6, b"ab".to_vec()).await?;
///     file.flush().await?;
///     // What lies behind the end reads as zeros.
///     Ok::<_, Error>(file.read_vec(4, 6).await?)
/// })?;
/// assert_eq!(bytes, b"56ab\0\0");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub enum Storage {
    /// A file of the host.
    File(Rc<FileStorage>),
    /// An export of an NBD server.
    Nbd(Rc<NbdStorage>),
    /// A simulated file that can crash.
    #[cfg(feature = "sim")]
    Sim(Rc<SimFile>),
}

/// A part of a file, as [`Storage::extent`] sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileExtent {
    /// Bytes until the next change; at least 1.
    pub len: u64,
    /// Whether the host stores bytes here; a hole reads as zeros.
    pub data: bool,
}

impl Storage {
    /// Opens what `path` names: a file, or an export by its NBD URI, for whose return requests wait
    /// for `reconnect_delay`.
    ///
    /// # Errors
    /// One line on why it cannot be used.
    pub async fn open(
        exec: &Rc<Executor>,
        path: &Path,
        options: FileOptions,
        reconnect_delay: Duration,
    ) -> Result<Self> {
        if !is_nbd_uri(path) {
            let file = FileStorage::open(exec, path, options)?;
            return Ok(Self::File(Rc::new(file)));
        }
        let options = NbdOptions {
            read_only: options.read_only,
            no_flush: options.no_flush,
            reconnect_delay,
        };
        let export = NbdStorage::open(exec, path, options).await?;
        Ok(Self::Nbd(Rc::new(export)))
    }

    /// Fills `data` from `offset` on.
    ///
    /// # Errors
    /// The host's error. What `data` holds then is undefined.
    pub async fn read(&self, offset: u64, data: SgList) -> IoResult<()> {
        match self {
            Self::File(file) => file.read(offset, data).await,
            Self::Nbd(export) => Box::pin(export.read(offset, data)).await,
            #[cfg(feature = "sim")]
            Self::Sim(sim) => sim.read(offset, data).await,
        }
    }

    /// Writes `data` at `offset`.
    ///
    /// # Errors
    /// The host's error. What the range holds then is undefined.
    pub async fn write(&self, offset: u64, data: SgList) -> IoResult<()> {
        match self {
            Self::File(file) => file.write(offset, data).await,
            Self::Nbd(export) => Box::pin(export.write(offset, data)).await,
            #[cfg(feature = "sim")]
            Self::Sim(sim) => sim.write(offset, data).await,
        }
    }

    /// Makes the range read as zeros, growing the file where it ends before; blocks of the host
    /// may be freed only with `unmap`.
    ///
    /// # Errors
    /// The host's error.
    pub async fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> IoResult<()> {
        match self {
            Self::File(file) => file.write_zeroes(offset, len, unmap).await,
            Self::Nbd(export) => export.write_zeroes(offset, len, unmap).await,
            #[cfg(feature = "sim")]
            Self::Sim(sim) => sim.write_zeroes(offset, len, unmap).await,
        }
    }

    /// Gives the range's blocks back to the host where it can; reads as zeros then, and as before
    /// where the host cannot. The file's length stays.
    ///
    /// # Errors
    /// The host's error.
    pub async fn punch_hole(&self, offset: u64, len: u64) -> IoResult<()> {
        match self {
            Self::File(file) => file.punch_hole(offset, len).await,
            Self::Nbd(export) => export.punch_hole(offset, len).await,
            #[cfg(feature = "sim")]
            Self::Sim(sim) => sim.punch_hole(offset, len).await,
        }
    }

    /// Keeps room on the host's disk for a range, which reads as zeros if it has not been written.
    ///
    /// # Errors
    /// As [`Storage::write`]; what holds the bytes knows of no reservations.
    pub async fn reserve(&self, offset: u64, len: u64) -> IoResult<()> {
        match self {
            Self::File(file) => file.reserve(offset, len).await,
            Self::Nbd(_) => Err(IoError::Unsupported {
                file: self.path().to_owned(),
                what: "preallocation on an NBD export".into(),
            }),
            #[cfg(feature = "sim")]
            Self::Sim(sim) => sim.write_zeroes(offset, len, false).await,
        }
    }

    /// Writes zeros as other data is written, so that the host has really allocated and filled the
    /// range.
    ///
    /// # Errors
    /// As [`Storage::write`].
    pub async fn write_zeroes_in_full(&self, offset: u64, len: u64) -> IoResult<()> {
        const PIECE: u64 = 1 << 20;
        let zeros = SgList::zeroed(to_usize(PIECE.min(len)));
        let mut done = 0;
        while done < len {
            let piece = zeros.slice(0, to_usize(PIECE.min(len - done)));
            self.write(offset + done, piece).await?;
            done += PIECE;
        }
        Ok(())
    }

    /// Has the host copy `len` bytes from `from` on in `source`; whether it could. Where it could
    /// not, what the range holds is undefined.
    ///
    /// # Errors
    /// As [`Storage::write`].
    pub async fn copy_from(
        &self,
        offset: u64,
        source: &Self,
        from: u64,
        len: u64,
    ) -> IoResult<bool> {
        match (self, source) {
            (Self::File(file), Self::File(source)) => {
                file.copy_from(offset, source, from, len).await
            }
            _ => Ok(false),
        }
    }

    /// Makes every completed write durable (fdatasync).
    ///
    /// # Errors
    /// [`IoError::Lost`], whatever the host's error was, also for want of room: writes since the
    /// last flush may be lost then. That cannot be undone by flushing again, so from then on all
    /// flushes fail, for every caller.
    pub async fn flush(&self) -> IoResult<()> {
        match self {
            Self::File(file) => file.flush().await,
            Self::Nbd(export) => export.flush().await,
            #[cfg(feature = "sim")]
            Self::Sim(sim) => sim.flush().await,
        }
    }

    /// Asks the host to bring what has been written to disk, and waits until what it was asked for
    /// the last time is there: keeps the next [`Storage::flush`] short. Makes nothing durable. If
    /// something is lost, the next flush fails.
    pub async fn write_back(&self) {
        match self {
            Self::File(file) => file.write_back().await,
            Self::Nbd(_) => {}
            #[cfg(feature = "sim")]
            Self::Sim(_) => {}
        }
    }

    /// Has the host begin to bring what has been written to disk, and waits for nothing of that:
    /// keeps the next [`Storage::flush`] short. Makes nothing durable. If something is lost, the
    /// next flush fails.
    pub async fn start_write_back(&self) {
        match self {
            Self::File(file) => file.start_write_back().await,
            Self::Nbd(_) => {}
            #[cfg(feature = "sim")]
            Self::Sim(_) => {}
        }
    }

    /// Cuts or grows (with zeros) the file to `len` bytes.
    ///
    /// # Errors
    /// The host's error.
    pub async fn set_len(&self, len: u64) -> IoResult<()> {
        match self {
            Self::File(file) => file.set_len(len).await,
            Self::Nbd(export) => export.set_len(len).await,
            #[cfg(feature = "sim")]
            Self::Sim(sim) => sim.set_len(len).await,
        }
    }

    /// Whether nobody changes its length: a device, or an export.
    pub fn has_fixed_len(&self) -> bool {
        match self {
            Self::File(file) => file.is_device(),
            Self::Nbd(_) => true,
            #[cfg(feature = "sim")]
            Self::Sim(_) => false,
        }
    }

    /// Gives up what lies behind the first `len` bytes, which nobody needs: the file ends there
    /// then, unless its length is fixed.
    ///
    /// # Errors
    /// The host's error.
    pub async fn cut_off(&self, len: u64) -> IoResult<()> {
        if self.has_fixed_len() {
            return Ok(());
        }
        self.set_len(len).await
    }

    /// Forgets what the file holds, and informs its file system how it is to be stored from now on.
    ///
    /// # Errors
    /// As [`Storage::start_over`].
    pub async fn give_hints(&self, hints: FileHints) -> Result<()> {
        match self {
            Self::File(file) if !hints.is_empty() && !self.has_fixed_len() => {
                self.start_over(0).await?;
                file.give_hints(hints);
            }
            _ => {}
        }
        Ok(())
    }

    /// Forgets what the file holds: it gets `len` bytes of zeros. What has a fixed length keeps it,
    /// and its bytes but for the first sector, by which its format would be known.
    ///
    /// # Errors
    /// It is shorter and cannot grow, which is found before anything is written; the host's error.
    pub async fn start_over(&self, len: u64) -> Result<()> {
        if !self.has_fixed_len() {
            self.set_len(0).await?;
            return Ok(self.set_len(len).await?);
        }
        if len > self.len() {
            return Err(Error::Image {
                file: self.path().to_owned(),
                why: format!(
                    "is too small and cannot grow: it has {} bytes, and {len} are needed",
                    self.len()
                ),
            });
        }
        let head = self.len().min(FORMAT_HEAD);
        Ok(self.write_zeroes(0, head, false).await?)
    }

    /// Locks the file for another use than so far, as [`FileStorage::lock`] does.
    ///
    /// # Errors
    /// Others use the file in a way that does not go together with `access`.
    pub fn lock(&self, access: Access) -> Result<()> {
        match self {
            Self::File(file) => file.lock(access),
            // Whoever serves the file has locked it.
            Self::Nbd(_) => Ok(()),
            #[cfg(feature = "sim")]
            Self::Sim(_) => Ok(()),
        }
    }

    /// Has a file that was opened read-only be written, too: opens it again where the host asks for
    /// that, and locks it for writing.
    ///
    /// # Errors
    /// Nobody lets it be written; others use it. It is as it was then.
    pub fn make_writable(&self) -> Result<()> {
        match self {
            Self::File(file) => file.make_writable(),
            Self::Nbd(export) => export.make_writable(),
            #[cfg(feature = "sim")]
            Self::Sim(sim) => sim.make_writable(),
        }
    }

    /// Length of the file in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::File(file) => file.len(),
            Self::Nbd(export) => export.len(),
            #[cfg(feature = "sim")]
            Self::Sim(sim) => sim.len(),
        }
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the host stores bytes at `offset`, and for how long that goes on, up to `len`.
    /// Beyond the end is a hole.
    pub async fn extent(&self, offset: u64, len: u64) -> FileExtent {
        match self {
            Self::File(file) => file.extent(offset, len),
            Self::Nbd(export) => export.extent(offset, len).await,
            #[cfg(feature = "sim")]
            Self::Sim(sim) => sim.extent(offset, len),
        }
    }

    /// Bytes that the file takes on the host's disk.
    pub fn allocated_bytes(&self) -> Option<u64> {
        match self {
            Self::File(file) => file.allocated_bytes(),
            Self::Nbd(_) => None,
            #[cfg(feature = "sim")]
            Self::Sim(_) => None,
        }
    }

    /// The file's name as it was opened.
    pub fn path(&self) -> &Path {
        match self {
            Self::File(file) => file.path(),
            Self::Nbd(export) => export.path(),
            #[cfg(feature = "sim")]
            Self::Sim(sim) => sim.path(),
        }
    }

    /// What holds the bytes, under whatever name it was opened: the open file decides, so a file
    /// that has been renamed or replaced meanwhile is still itself.
    ///
    /// # Errors
    /// The host's error.
    pub fn identity(&self) -> io::Result<Identity> {
        match self {
            Self::File(file) => file.identity(),
            Self::Nbd(export) => Ok(export.identity()),
            #[cfg(feature = "sim")]
            Self::Sim(sim) => Ok(sim.identity()),
        }
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        match self {
            Self::File(file) => file.is_read_only(),
            Self::Nbd(export) => export.is_read_only(),
            #[cfg(feature = "sim")]
            Self::Sim(_) => false,
        }
    }

    /// Runs `work`, which keeps a processor busy for long, on a helper thread; for a simulated file
    /// at once and here, so that the same seed does the same again.
    pub async fn compute<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        match self {
            Self::File(file) => file.helpers().run(work).await,
            Self::Nbd(export) => export.helpers().run(work).await,
            #[cfg(feature = "sim")]
            Self::Sim(_) => work(),
        }
    }

    /// `len` bytes from `offset` on, for metadata.
    ///
    /// # Errors
    /// As [`Storage::read`].
    pub async fn read_vec(&self, offset: u64, len: usize) -> IoResult<Vec<u8>> {
        let data = SgList::zeroed(len);
        self.read(offset, data.clone()).await?;
        Ok(data.to_vec())
    }

    /// Writes `bytes` at `offset`, for metadata.
    ///
    /// # Errors
    /// As [`Storage::write`].
    pub async fn write_vec(&self, offset: u64, bytes: Vec<u8>) -> IoResult<()> {
        self.write(offset, SgList::from_vec(bytes)).await
    }
}

/// A name that means the same from every directory: a path made absolute, a URI as it is.
pub fn absolute_name(path: &Path) -> PathBuf {
    if is_nbd_uri(path) {
        return path.to_owned();
    }
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The part of a file's range `offset..offset + len` that lies before `end`.
fn before_end(offset: u64, len: u64, end: u64) -> Range<u64> {
    offset.min(end)..offset.saturating_add(len).min(end)
}

#[cfg(test)]
mod tests;
