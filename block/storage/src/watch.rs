//! [`Watch`]: whether the host has lost what was written to a file.
//!
//! An open file reports it once, by whichever call comes first: `sync_file_range` takes it, with
//! NFS a write does. If that were the open file that is flushed, the flush would know of nothing.
//! So the file is open once more, for nothing else but to be asked.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::AsRawFd,
};

use super::vectored;

/// A file, opened once more; takes one descriptor.
pub(super) struct Watch(File);

impl Watch {
    /// Notices what is lost from now on; `None` where the host cannot open the file again.
    pub fn open(file: &File) -> Option<Self> {
        reopen(file, OpenOptions::new().read(true)).ok().map(Self)
    }

    /// Asks; does not wait for the disk.
    ///
    /// # Errors
    /// Why something was lost, once.
    pub fn ask(&self) -> io::Result<()> {
        vectored::take_write_back_error(&self.0)
    }
}

/// The same file, opened for another use.
///
/// # Errors
/// The host's error, also where there is no `/proc`.
pub(super) fn reopen(file: &File, options: &mut OpenOptions) -> io::Result<File> {
    // By its descriptor: its name may mean another file by now.
    options.open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
