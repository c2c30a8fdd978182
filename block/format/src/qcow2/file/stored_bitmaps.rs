//! What the file says of persistent bitmaps: the directory that its header names.

use std::cell::{Cell, Ref, RefCell};

use crate::qcow2::layout::{
    bitmap_directory::{self, Entry, Flags},
    extensions::DirectoryPlace,
    geometry::HostRun,
    header::AUTOCLEAR_BITMAPS,
};

/// The bitmaps in the file of an open image.
#[derive(Default)]
pub(in crate::qcow2) struct StoredBitmaps {
    /// What the header names, unless it is not valid.
    directory: RefCell<Option<BitmapDirectory>>,
    /// Why what the header names as valid is not.
    fault: RefCell<Option<String>>,
    /// The image may have been written to since they were loaded or stored.
    unstored: Cell<bool>,
}

/// The directory as it is in the file.
pub(in crate::qcow2) struct BitmapDirectory {
    pub place: DirectoryPlace,
    pub stored: Vec<StoredBitmap>,
}

/// A bitmap in the file.
#[derive(Clone)]
pub(in crate::qcow2) struct StoredBitmap {
    pub entry: Entry,
    /// Those of its table and its bits.
    pub clusters: Vec<HostRun>,
}

impl StoredBitmaps {
    /// The directory, if the header names one that is valid.
    pub fn directory(&self) -> Ref<'_, Option<BitmapDirectory>> {
        self.directory.borrow()
    }

    /// The header names another directory now, or none. Returns the one before.
    pub fn replace_directory(&self, new: Option<BitmapDirectory>) -> Option<BitmapDirectory> {
        self.directory.replace(new)
    }

    /// Why what the header names as valid is not.
    pub fn fault(&self) -> Option<String> {
        self.fault.borrow().clone()
    }

    /// What the header names as valid is not.
    pub fn set_fault(&self, why: String) {
        self.fault.replace(Some(why));
    }

    /// Whether the image may have been written to since the bitmaps were loaded or stored.
    pub fn is_unstored(&self) -> bool {
        self.unstored.get()
    }

    /// Notes whether it may have been.
    pub fn set_unstored(&self, unstored: bool) {
        self.unstored.set(unstored);
    }

    /// The autoclear bit, if it may stay set.
    pub fn autoclear_bit(&self) -> u64 {
        let valid = self.directory.borrow().is_some();
        if valid { AUTOCLEAR_BITMAPS } else { 0 }
    }

    /// Where the directory lies, and its bytes as they are to be before the image is written to;
    /// `None` if it says so already.
    pub fn marked(&self) -> Option<(u64, Vec<u8>)> {
        let mut directory = self.directory.borrow_mut();
        let BitmapDirectory { place, stored } = directory.as_mut()?;
        let mut changed = false;
        for StoredBitmap { entry, .. } in stored.iter_mut() {
            let stale = entry.goes_stale() && !entry.flags.contains(Flags::IN_USE);
            entry
                .flags
                .set(Flags::IN_USE, stale || entry.flags.contains(Flags::IN_USE));
            changed |= stale;
        }
        let bytes = bitmap_directory::to_bytes(stored.iter().map(|stored| &stored.entry));
        changed.then_some((place.offset, bytes))
    }
}
