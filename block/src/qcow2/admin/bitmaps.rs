//! Persistent dirty bitmaps (specification, "Bitmaps extension").
//!
//! Those that can be used are loaded when the image is opened, and live in memory. While the image
//! may be written to, its directory says that they are in use: from before the first write until
//! they have been stored again, when it is closed. So a crash at any moment leaves bitmaps that are
//! known to be out of date, or that cover every write.
//!
//! Nothing that the directory names is ever changed in place, but for that mark. Storing writes new
//! clusters, then the header names the new directory, and the old clusters are freed.

mod directory;
mod load;
mod store;
mod table;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use serde_json::{Value, json};

pub use directory::MAX_DIRECTORY;
use directory::{Entry, Flags, MAX_BITMAPS};

use crate::{
    bitmap::{Bitmaps, DirtyBitmap, check_bits},
    error::IoResult,
    qcow2::{
        Qcow2,
        layout::{extensions::DirectoryPlace, geometry::HostRun, header::AUTOCLEAR_BITMAPS},
    },
};

/// The bitmaps of an open image.
#[derive(Default)]
pub(in crate::qcow2) struct PersistentBitmaps {
    /// All bitmaps of the layer, also those that are not persistent.
    pub live: Rc<Bitmaps>,
    /// What the header names, unless it is not valid.
    directory: RefCell<Option<Directory>>,
    /// Why what the header names as valid is not.
    fault: RefCell<Option<String>>,
    /// The image may have been written to since they were loaded or stored.
    pub unstored: Cell<bool>,
}

/// The directory as it is in the file.
struct Directory {
    place: DirectoryPlace,
    stored: Vec<Stored>,
}

/// A bitmap in the file.
#[derive(Clone)]
struct Stored {
    entry: Entry,
    /// Those of its table and its bits.
    clusters: Vec<HostRun>,
}

impl PersistentBitmaps {
    /// The autoclear bit, if it may stay set.
    pub fn autoclear_bit(&self) -> u64 {
        let valid = self.directory.borrow().is_some();
        if valid { AUTOCLEAR_BITMAPS } else { 0 }
    }

    /// The directory as it is to be before the image is written to; `None` if it says so already.
    fn marked(&self) -> Option<(u64, Vec<u8>)> {
        let mut directory = self.directory.borrow_mut();
        let Directory { place, stored } = directory.as_mut()?;
        let mut changed = false;
        for Stored { entry, .. } in stored.iter_mut() {
            let stale = entry.goes_stale() && !entry.flags.contains(Flags::IN_USE);
            entry
                .flags
                .set(Flags::IN_USE, stale || entry.flags.contains(Flags::IN_USE));
            changed |= stale;
        }
        let bytes = directory::to_bytes(stored.iter().map(|stored| &stored.entry));
        changed.then_some((place.offset, bytes))
    }
}

impl Qcow2 {
    /// The layer's bitmaps. Whatever changes a persistent one comes after
    /// [`Qcow2::begin_bitmap_change`].
    pub fn bitmaps(&self) -> &Rc<Bitmaps> {
        &self.bitmaps.live
    }

    /// Makes the file say that its bitmaps are in use, before one of them is changed otherwise
    /// than by a write.
    ///
    /// # Errors
    /// The image is read-only, has stopped, or the header cannot be written.
    pub async fn begin_bitmap_change(&self) -> IoResult<()> {
        self.begin_write().await
    }

    /// Whether the image keeps bitmaps.
    pub(in crate::qcow2) fn has_stored_bitmaps(&self) -> bool {
        self.bitmaps.directory.borrow().is_some()
    }

    /// Marks the bitmaps as in use: durable when this returns. The caller holds `header_edit`.
    pub(in crate::qcow2) async fn mark_bitmaps_in_use(&self) -> IoResult<()> {
        let Some((offset, bytes)) = self.bitmaps.marked() else {
            return Ok(());
        };
        let result = async {
            self.flush_file().await?;
            self.file.write_vec(offset, bytes).await?;
            self.flush_file().await
        };
        let result = result.await;
        if let Err(error) = &result {
            self.stop(error);
        }
        result
    }

    /// Why a bitmap of this granularity could not be stored, in QEMU's words where it has such.
    ///
    /// # Errors
    /// That.
    pub fn check_new_bitmap(&self, bitmap: &DirtyBitmap) -> std::result::Result<(), String> {
        if self.geometry.version < 3 {
            return Err("Cannot store dirty bitmaps in qcow2 v2 files".into());
        }
        check_bits(bitmap.size(), bitmap.granularity_bits())?;
        let persistent = self.bitmaps.live.list();
        let persistent = persistent.iter().filter(|bitmap| bitmap.is_persistent());
        if persistent.count() >= MAX_BITMAPS as usize {
            return Err("Maximum number of persistent bitmaps is already reached".into());
        }
        let somewhere = DirectoryPlace {
            count: 1,
            len: 0,
            offset: 0,
        };
        self.area.borrow().clone().set_bitmaps(Some(somewhere))
    }

    /// What is wrong with the bitmaps that the header says are valid; in QEMU's words where the
    /// specification knows nothing of such bitmaps.
    pub fn bitmap_fault(&self) -> Option<String> {
        if let Some(fault) = self.bitmaps.fault.borrow().clone() {
            return Some(fault);
        }
        let directory = self.bitmaps.directory.borrow();
        let mut stored = directory.iter().flat_map(|d| &d.stored);
        stored.find_map(|stored| stored.entry.fault())
    }

    /// `bitmaps` of `ImageInfoSpecificQCow2`: the directory as it is in the file.
    pub(in crate::qcow2) fn describe_bitmaps(&self) -> Option<Value> {
        let directory = self.bitmaps.directory.borrow();
        let describe = |Stored { entry, .. }: &Stored| {
            let names = [(Flags::IN_USE, "in-use"), (Flags::AUTO, "auto")];
            let set = names.iter().filter(|(flag, _)| entry.flags.contains(*flag));
            json!({
                "flags": set.map(|(_, name)| *name).collect::<Vec<_>>(),
                "name": entry.name,
                "granularity": 1u64 << entry.granularity_bits,
            })
        };
        let stored = &directory.as_ref()?.stored;
        Some(stored.iter().map(describe).collect())
    }
}
