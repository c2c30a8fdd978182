//! Persistent dirty bitmaps (specification, "Bitmaps extension").
//!
//! Those that can be used are loaded when the image is opened, and live in memory. While the image
//! may be written to, its directory says that they are in use: from before the first write until
//! they have been stored again, when it is closed. So a crash at any moment leaves bitmaps that are
//! known to be out of date, or that cover every write.
//!
//! Nothing that the directory names is ever changed in place, but for that mark. Storing writes new
//! clusters, then the header names the new directory, and the old clusters are freed.

mod load;
mod store;

use serde_json::{Value, json};
use strata_storage::error::IoResult;

use crate::{
    bitmap::{DirtyBitmap, check_bits},
    qcow2::{
        Qcow2,
        file::StoredBitmap,
        layout::{
            bitmap_directory::{Flags, MAX_BITMAPS},
            extensions::DirectoryPlace,
        },
    },
};

impl Qcow2 {
    /// Makes the file say that its bitmaps are in use, before one of them is changed, or a write is
    /// recorded in it.
    ///
    /// # Errors
    /// The image is read-only, has stopped, or the header cannot be written.
    pub async fn begin_bitmap_change(&self) -> IoResult<()> {
        self.file.begin_write().await
    }

    /// Whether the image keeps bitmaps.
    pub(in crate::qcow2) fn has_stored_bitmaps(&self) -> bool {
        self.file.bitmaps().directory().is_some()
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
        let persistent = self.bitmaps().list();
        let persistent = persistent.iter().filter(|bitmap| bitmap.is_persistent());
        if persistent.count() >= MAX_BITMAPS as usize {
            return Err("Maximum number of persistent bitmaps is already reached".into());
        }
        let somewhere = DirectoryPlace {
            count: 1,
            len: 0,
            offset: 0,
        };
        self.file.area().clone().set_bitmaps(Some(somewhere))
    }

    /// What is wrong with the bitmaps that the header says are valid; in QEMU's words where the
    /// specification knows nothing of such bitmaps.
    pub fn bitmap_fault(&self) -> Option<String> {
        if let Some(fault) = self.file.bitmaps().fault() {
            return Some(fault);
        }
        let directory = self.file.bitmaps().directory();
        let mut stored = directory.iter().flat_map(|d| &d.stored);
        stored.find_map(|stored| stored.entry.fault())
    }

    /// `bitmaps` of `ImageInfoSpecificQCow2`: the directory as it is in the file.
    pub(in crate::qcow2) fn describe_bitmaps(&self) -> Option<Value> {
        let directory = self.file.bitmaps().directory();
        let describe = |StoredBitmap { entry, .. }: &StoredBitmap| {
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
