//! The image's file: its header, the data file beside it, and whether it may still be written
//! (rules W5 and W6).
//!
//! Lies on nothing but the layout.

mod header_edit;
mod stored_bitmaps;

use std::{
    cell::{Cell, Ref, RefCell},
    rc::Rc,
};

pub(in crate::qcow2) use stored_bitmaps::{BitmapDirectory, StoredBitmap, StoredBitmaps};

use strata_storage::{
    Storage,
    error::{Error, IoError, IoResult},
};

use crate::{
    qcow2::{
        layout::{
            geometry::Geometry,
            header::{Header, Incompatible, LAZY_REFCOUNTS},
            header_area::HeaderArea,
        },
        lock_order::{LockOrder, Rank, RankedGuard, RankedLock},
    },
    stop::Stop,
};

/// The file of an open image.
pub(in crate::qcow2) struct ImageFile {
    storage: Storage,
    /// Where guest data lies: `storage`, or an external data file.
    data: Storage,
    geometry: Geometry,
    /// Writes are refused.
    read_only: Cell<bool>,
    /// Refcounts are written when the image is closed; until then it is marked dirty.
    lazy: bool,
    area: RefCell<HeaderArea>,
    /// Held while the header is changed.
    header_edit: RankedLock,
    /// Held while tables are written.
    writing_tables: RankedLock,
    /// What the file says of bitmaps.
    bitmaps: StoredBitmaps,
    /// Unknown autoclear bits have been cleared: the image may be written to.
    write_ready: Cell<bool>,
    /// A metadata write failed (rule W6).
    stopped: Stop,
}

/// Keeps tables from being written.
pub(in crate::qcow2) struct TablesExcluded<'a> {
    _guard: RankedGuard<'a>,
}

impl ImageFile {
    /// The file `storage`, which starts with `area`, and the one with its data.
    pub fn new(
        storage: Storage,
        data: Storage,
        area: HeaderArea,
        read_only: bool,
        order: &Rc<LockOrder>,
    ) -> Self {
        Self {
            storage,
            data,
            geometry: area.header.geometry,
            read_only: Cell::new(read_only),
            lazy: area.header.compatible & LAZY_REFCOUNTS != 0,
            area: RefCell::new(area),
            header_edit: RankedLock::new(Rank::Header, order),
            writing_tables: RankedLock::new(Rank::WritingTables, order),
            bitmaps: StoredBitmaps::default(),
            write_ready: Cell::new(false),
            stopped: Stop::default(),
        }
    }

    /// Its sizes.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The file.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// The file that holds guest data: the image's own, or an external data file.
    pub fn data(&self) -> &Storage {
        &self.data
    }

    /// Whether writes are refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only.get()
    }

    /// Refuses writes from now on, or no more.
    pub fn set_read_only(&self, read_only: bool) {
        self.read_only.set(read_only);
    }

    /// Whether refcounts are written only when the image is closed.
    pub fn is_lazy(&self) -> bool {
        self.lazy
    }

    /// The first cluster.
    pub fn area(&self) -> Ref<'_, HeaderArea> {
        self.area.borrow()
    }

    /// A copy of the header.
    pub fn header(&self) -> Header {
        self.area.borrow().header.clone()
    }

    /// What the file says of bitmaps.
    pub fn bitmaps(&self) -> &StoredBitmaps {
        &self.bitmaps
    }

    /// Whether the header says that refcounts may be stale.
    pub fn is_dirty(&self) -> bool {
        let incompatible = self.area.borrow().header.incompatible;
        incompatible.contains(Incompatible::DIRTY)
    }

    /// Whether guest data lies in an external data file that is an image of the disk in itself.
    pub fn has_raw_data(&self) -> bool {
        self.area.borrow().header.has_raw_data()
    }

    /// Waits until no tables are being written, and keeps it so.
    pub async fn exclude_tables(&self) -> TablesExcluded<'_> {
        TablesExcluded {
            _guard: self.writing_tables.lock().await,
        }
    }

    /// Flushes the image's own file. An fdatasync that fails may have lost writes for good,
    /// whatever its error (rule W6).
    pub async fn flush(&self) -> IoResult<()> {
        self.flush_of(&self.storage).await
    }

    /// Flushes the external data file, if there is one: as [`ImageFile::flush`].
    pub async fn flush_external_data(&self) -> IoResult<()> {
        if self.geometry.external_data {
            self.flush_of(&self.data).await?;
        }
        Ok(())
    }

    async fn flush_of(&self, file: &Storage) -> IoResult<()> {
        let result = file.flush().await;
        if let Err(error) = &result {
            self.stop(error);
        }
        result
    }

    /// Whether writing has stopped after a metadata write error (rule W6).
    pub fn is_stopped(&self) -> bool {
        self.stopped.is_set()
    }

    /// # Errors
    /// Writing has stopped.
    pub fn check_running(&self) -> IoResult<()> {
        self.stopped.check(&self.storage)
    }

    /// Rule W6: what the file holds is no longer known for certain, so nothing more is written.
    /// A file that finds no room is no such error: the same write is tried again later.
    pub fn stop_after(&self, error: &IoError) {
        if !matches!(error, IoError::NoSpace { .. }) {
            self.stop(error);
        }
    }

    /// Rule W6, whatever the error.
    pub fn stop(&self, error: &IoError) {
        self.stopped.set(&self.storage, error);
    }

    /// What is wrong with the image.
    pub fn corrupt(&self, what: impl Into<String>) -> IoError {
        IoError::Corrupt {
            file: self.storage.path().to_owned(),
            what: what.into(),
        }
    }

    /// What cannot be done with the image.
    pub fn unsupported(&self, what: impl Into<String>) -> IoError {
        IoError::Unsupported {
            file: self.storage.path().to_owned(),
            what: what.into(),
        }
    }

    /// Why something that was asked for is not done.
    pub fn refused(&self, why: impl Into<String>) -> Error {
        Error::Image {
            file: self.storage.path().to_owned(),
            why: why.into(),
        }
    }
}
