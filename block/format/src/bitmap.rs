//! Dirty bitmaps: which parts of a layer have been written since some moment.
//!
//! They belong to a layer ([`Bitmaps`]); the format may load and store them
//! ([`DirtyBitmap::persistent`]). Nothing here does I/O.

mod bits;

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    rc::Rc,
};

pub use bits::{Bits, Content};

use crate::names::{Name, Namespace};

/// Longest name in bytes, as QEMU has it.
pub const MAX_NAME: usize = 1023;

/// Smallest and largest granularity in bytes that QEMU takes, as powers of two.
pub const GRANULARITY_BITS: std::ops::RangeInclusive<u32> = 9..=31;

/// Bits of a bitmap at most: bounds the memory that it takes, and is what qcow2 can store.
const MAX_BITS: u64 = 1 << 32;

/// Whether a bitmap of `size` bytes may have this granularity.
///
/// # Errors
/// QEMU's words for that it may not.
pub fn check_bits(size: u64, granularity_bits: u32) -> Result<(), String> {
    if size.div_ceil(1 << granularity_bits) > MAX_BITS {
        return Err("Too much space will be occupied by the bitmap. Use larger granularity".into());
    }
    Ok(())
}

/// One bitmap.
#[derive(Debug)]
pub struct DirtyBitmap {
    name: Name,
    granularity_bits: u32,
    /// Bytes that it describes.
    size: Cell<u64>,
    bits: RefCell<Bits>,
    recording: Cell<bool>,
    persistent: bool,
    inconsistent: bool,
    busy: Cell<bool>,
}

impl DirtyBitmap {
    /// A bitmap of `size` bytes in which nothing is dirty. `granularity_bits` is the log2 of the
    /// bytes that share a bit: see [`GRANULARITY_BITS`].
    pub fn new(name: Name, granularity_bits: u32, size: u64, persistent: bool) -> Self {
        Self {
            name,
            granularity_bits,
            size: Cell::new(size),
            bits: RefCell::new(Bits::new(size.div_ceil(1 << granularity_bits))),
            recording: Cell::new(true),
            persistent,
            inconsistent: false,
            busy: Cell::new(false),
        }
    }

    /// A persistent bitmap that was not stored when it should have been: it has a name, and may be
    /// removed. It records nothing.
    pub fn inconsistent(name: Name, granularity_bits: u32) -> Self {
        Self {
            recording: Cell::new(false),
            inconsistent: true,
            ..Self::new(name, granularity_bits, 0, true)
        }
    }

    /// Its name, unique in its layer.
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// Its name, for another one in its place.
    pub fn into_name(self) -> Name {
        self.name
    }

    /// Bytes that share a bit.
    pub fn granularity(&self) -> u64 {
        1 << self.granularity_bits
    }

    /// log2 of [`DirtyBitmap::granularity`].
    pub fn granularity_bits(&self) -> u32 {
        self.granularity_bits
    }

    /// Bytes that it describes.
    pub fn size(&self) -> u64 {
        self.size.get()
    }

    /// Bytes that are dirty, in units of the granularity.
    pub fn count(&self) -> u64 {
        self.bits.borrow().count() << self.granularity_bits
    }

    /// Writes set bits.
    pub fn is_recording(&self) -> bool {
        self.recording.get()
    }

    /// Makes writes set bits, or no longer.
    pub fn set_recording(&self, recording: bool) {
        self.recording.set(recording);
    }

    /// The format stores it when the layer is closed.
    pub fn is_persistent(&self) -> bool {
        self.persistent
    }

    /// It misses writes, and may only be removed.
    pub fn is_inconsistent(&self) -> bool {
        self.inconsistent
    }

    /// Something uses it, so that it may not be changed by commands.
    pub fn is_busy(&self) -> bool {
        self.busy.get()
    }

    /// Marks it busy until the guard is dropped. The caller has seen that it is not.
    pub fn hold(self: &Rc<Self>) -> Held {
        self.busy.set(true);
        Held(self.clone())
    }

    /// The bits.
    pub fn bits(&self) -> &RefCell<Bits> {
        &self.bits
    }

    /// Makes `range` (bytes) dirty, as far as it lies within the bitmap.
    pub fn set(&self, range: Range<u64>) {
        let end = range.end.min(self.size.get());
        if range.start < end {
            let bits = range.start >> self.granularity_bits..end.div_ceil(self.granularity());
            self.bits.borrow_mut().set(bits);
        }
    }

    /// Makes everything clean.
    pub fn clear(&self) {
        self.bits.borrow_mut().clear();
    }

    /// Makes dirty what is dirty in `other`, whatever its granularity.
    pub fn merge(&self, other: &Self) {
        if std::ptr::eq(self, other) {
            return;
        }
        let mut at = 0;
        while at < other.size() {
            let (len, dirty) = other.run_at(at);
            if dirty {
                self.set(at..at + len);
            }
            at += len;
        }
    }

    /// The bytes from `offset` on that are all dirty or all clean: how many (at least 1), and
    /// which. Behind the bitmap's end everything is clean.
    pub fn run_at(&self, offset: u64) -> (u64, bool) {
        let size = self.size.get();
        if offset >= size {
            return (u64::MAX - offset, false);
        }
        let (end, dirty) = self.bits.borrow().run_at(offset >> self.granularity_bits);
        let end = match end {
            Some(bit) => bit << self.granularity_bits,
            None if dirty => size,
            None => u64::MAX,
        };
        (end - offset, dirty)
    }

    /// What the `len` bytes from `offset` on are: at most `max` runs of length and dirtiness.
    /// Neighbours differ.
    pub fn runs(&self, offset: u64, len: u64, max: usize) -> Vec<(u64, bool)> {
        let mut runs = Vec::new();
        let mut done = 0;
        while done < len && runs.len() < max {
            let (run, dirty) = self.run_at(offset + done);
            let run = run.min(len - done);
            runs.push((run, dirty));
            done += run;
        }
        runs
    }

    /// The layer has `size` bytes from now on; what is new is clean.
    fn resize(&self, size: u64) {
        self.size.set(size);
        let bits = size.div_ceil(self.granularity());
        self.bits.borrow_mut().resize(bits);
    }
}

/// Keeps a bitmap busy.
#[derive(Debug)]
pub struct Held(Rc<DirtyBitmap>);

impl Held {
    /// The bitmap.
    pub fn bitmap(&self) -> &DirtyBitmap {
        &self.0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.busy.set(false);
    }
}

/// The bitmaps of one layer.
#[derive(Debug, Default)]
pub struct Bitmaps {
    list: RefCell<Vec<Rc<DirtyBitmap>>>,
    names: Namespace,
}

/// Records a change when it is dropped: when the change has been made, or has failed half-way.
#[derive(Debug)]
#[must_use]
pub struct Recorded<'a> {
    bitmaps: &'a Bitmaps,
    range: Range<u64>,
}

impl Bitmaps {
    /// All of them, in the order in which they were added.
    pub fn list(&self) -> Vec<Rc<DirtyBitmap>> {
        self.list.borrow().clone()
    }

    /// The bitmap of that name.
    pub fn find(&self, name: &str) -> Option<Rc<DirtyBitmap>> {
        let found = |bitmap: &&Rc<DirtyBitmap>| bitmap.name() == name;
        self.list.borrow().iter().find(found).cloned()
    }

    /// Takes a name for a new bitmap; `None` if there is one of that name, or soon will be.
    pub fn reserve(&self, name: &str) -> Option<Name> {
        self.names.reserve(name)
    }

    /// Adds a bitmap whose name has been [reserved](Bitmaps::reserve) here.
    pub fn add(&self, bitmap: DirtyBitmap) {
        debug_assert!(self.names.contains(bitmap.name()));
        self.list.borrow_mut().push(Rc::new(bitmap));
    }

    /// Adds a bitmap again that was removed and has kept its name.
    pub fn put_back(&self, bitmap: Rc<DirtyBitmap>) {
        self.list.borrow_mut().push(bitmap);
    }

    /// Removes the bitmap of that name.
    pub fn remove(&self, name: &str) {
        self.list
            .borrow_mut()
            .retain(|bitmap| bitmap.name() != name);
    }

    /// Makes the range dirty in every bitmap that records, when the guard is dropped. Not before:
    /// a bitmap that is cleared while a write is under way has to know of it afterwards.
    pub fn record(&self, offset: u64, len: u64) -> Recorded<'_> {
        let range = offset..offset.saturating_add(len);
        let bitmaps = self;
        Recorded { bitmaps, range }
    }

    /// Whether all of them can be resized to `size` bytes.
    ///
    /// # Errors
    /// Why not, in QEMU's words.
    pub fn check_resize(&self, size: u64) -> Result<(), String> {
        for bitmap in self.list.borrow().iter() {
            if bitmap.inconsistent {
                let name = bitmap.name();
                return Err(format!(
                    "Bitmap '{name}' is inconsistent and cannot be used"
                ));
            }
            check_bits(size, bitmap.granularity_bits)?;
        }
        Ok(())
    }

    /// The layer has `size` bytes from now on.
    pub fn resize(&self, size: u64) {
        let bitmaps = self.list.borrow();
        let consistent = bitmaps.iter().filter(|bitmap| !bitmap.inconsistent);
        consistent.for_each(|bitmap| bitmap.resize(size));
    }
}

impl Drop for Recorded<'_> {
    fn drop(&mut self) {
        let bitmaps = self.bitmaps.list.borrow();
        let recording = bitmaps.iter().filter(|bitmap| bitmap.recording.get());
        recording.for_each(|bitmap| bitmap.set(self.range.clone()));
    }
}

#[cfg(test)]
mod tests;
