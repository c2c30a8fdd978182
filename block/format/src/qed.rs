//! QED (specification: QEMU's `docs/interop/qed_spec`), little-endian, without refcounts: L1 names
//! L2 tables, these name data clusters, and what is new goes to the end of the file.
//!
//! Tables are changed in memory once the data that they name has been written, and written back in
//! the order of qcow2's rules: data and new, empty tables are durable before any entry that names
//! them is written. So a crash leaves at most clusters that nothing names. `NEED_CHECK` is set
//! while there may be such; the next open for writing frees them.

mod check;
mod create;
mod empty;
mod flush;
mod header;
mod lookup;
mod open;
mod resize;
mod write;
mod zero;

use std::cell::{Cell, RefCell};

pub use create::{CreateOptions, create};

use strata_exec::sync::Lock;
use strata_storage::{
    Storage,
    error::{IoError, IoResult},
};

use crate::{
    backing::Backing,
    root_table::RootTable,
    stop::Stop,
    table_cache::TableCache,
    under_way::{HeldLock, UnderWay},
};
use flush::Flushes;
use header::{Features, Header};

/// An open QED image. The caller keeps overlapping requests apart as for qcow2.
pub struct Qed {
    file: Storage,
    header: RefCell<Header>,
    backing: RefCell<Option<Backing>>,
    read_only: Cell<bool>,
    l1: RootTable,
    l2: TableCache,
    /// Where the next cluster goes. Nothing names what lies there or behind it.
    end: Cell<u64>,
    /// Something may lie there, of a request that failed.
    overhang: Cell<bool>,
    /// Held while clusters are allocated and named.
    allocating: Lock,
    flushes: Flushes,
    /// A metadata write failed: nothing more is written (rule W6).
    stopped: Stop,
}

impl Qed {
    /// Bytes of the virtual disk.
    pub fn virtual_size(&self) -> u64 {
        self.header.borrow().image_size
    }

    /// Bytes in a cluster.
    pub fn cluster_size(&self) -> u64 {
        self.header.borrow().cluster_size
    }

    /// The backing file, as the header names it. The format is given only if it is raw.
    pub fn backing(&self) -> Option<Backing> {
        self.backing.borrow().clone()
    }

    /// The file.
    pub fn file(&self) -> &Storage {
        &self.file
    }

    /// Whether the image was not closed cleanly, or is open for writing.
    pub fn is_dirty(&self) -> bool {
        let features = self.header.borrow().features;
        features.contains(Features::NEED_CHECK)
    }

    /// What tasks hold of it, or wait for.
    pub fn under_way(&self) -> UnderWay {
        let lock = HeldLock {
            name: "allocating".to_owned(),
            waiting: self.allocating.waiting(),
        };
        UnderWay {
            locks: self
                .allocating
                .is_held()
                .then_some(lock)
                .into_iter()
                .collect(),
            ..UnderWay::default()
        }
    }

    /// Whether writing has stopped after a metadata write error (rule W6).
    pub fn is_stopped(&self) -> bool {
        self.stopped.is_set()
    }

    fn corrupt(&self, what: impl Into<String>) -> IoError {
        IoError::Corrupt {
            file: self.file.path().to_owned(),
            what: what.into(),
        }
    }

    fn check_running(&self) -> IoResult<()> {
        self.stopped.check(&self.file)
    }

    /// Rule W6, after a write. A file that finds no room has not lost anything.
    fn stop_after(&self, error: &IoError) {
        if !matches!(error, IoError::NoSpace { .. }) {
            self.stop(error);
        }
    }

    fn stop(&self, error: &IoError) {
        self.stopped.set(&self.file, error);
    }

    fn check_range(&self, offset: u64, len: u64) -> IoResult<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.virtual_size() => Ok(()),
            _ => Err(IoError::OutOfRange),
        }
    }
}

#[cfg(test)]
mod tests;
