//! A table that is kept in memory as a whole: L1, or the refcount table.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
};

use strata_storage::{Storage, error::IoResult};

/// Entries in what a disk writes as a whole, 512 bytes.
const SECTOR_ENTRIES: usize = 64;

/// 64-bit big-endian entries, and which of them the file does not have yet.
///
/// Most tables are empty but for their first entries: a refcount table has a cluster at least, and
/// one of 64 KiB counts 16 TiB. What is empty at the end takes no memory.
pub struct RootTable {
    offset: Cell<u64>,
    len: Cell<usize>,
    /// Without the zeros at the end, as the table was when it was read.
    entries: RefCell<Vec<u64>>,
    dirty: RefCell<BTreeSet<usize>>,
}

/// Sectors that were dirty at one moment and are to be written.
pub struct RootBatch {
    sectors: BTreeSet<usize>,
    /// Offset in the file and bytes, ascending.
    pub writes: Vec<(u64, Vec<u8>)>,
}

impl RootTable {
    /// Reads `count` entries at `offset`. The caller has checked the count against its limit.
    ///
    /// # Errors
    /// The read's error.
    pub async fn load(file: &Storage, offset: u64, count: usize) -> IoResult<Self> {
        let bytes = file.read_vec(offset, count * 8).await?;
        let (words, _) = bytes.as_chunks::<8>();
        let used = words.iter().rposition(|word| *word != [0; 8]);
        let words = &words[..used.map_or(0, |last| last + 1)];
        Ok(Self {
            offset: Cell::new(offset),
            len: Cell::new(count),
            entries: RefCell::new(words.iter().map(|w| u64::from_be_bytes(*w)).collect()),
            dirty: RefCell::default(),
        })
    }

    /// Where the table starts in the file.
    pub fn offset(&self) -> u64 {
        self.offset.get()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len.get()
    }

    /// The entry at `index`; 0 behind the end.
    pub fn get(&self, index: usize) -> u64 {
        self.entries.borrow().get(index).copied().unwrap_or(0)
    }

    /// Sets the entry at `index`, in memory.
    ///
    /// # Panics
    /// If it lies behind the end.
    pub fn set(&self, index: usize, value: u64) {
        assert!(index < self.len(), "entry {index} of {}", self.len());
        let mut entries = self.entries.borrow_mut();
        if index >= entries.len() {
            entries.resize(index + 1, 0);
        }
        entries[index] = value;
        self.dirty.borrow_mut().insert(index / SECTOR_ENTRIES);
    }

    /// A copy of all entries.
    pub fn entries(&self) -> Vec<u64> {
        let mut entries = self.entries.borrow().clone();
        entries.resize(self.len(), 0);
        entries
    }

    /// The table has moved: `entries` are in the file at `offset`.
    pub fn moved(&self, offset: u64, entries: Vec<u64>) {
        self.offset.set(offset);
        self.len.set(entries.len());
        *self.entries.borrow_mut() = entries;
        self.dirty.borrow_mut().clear();
    }

    /// Takes what is dirty now.
    pub fn take_dirty(&self) -> RootBatch {
        let sectors = self.dirty.take();
        let entries = self.entries.borrow();
        let writes = sectors
            .iter()
            .map(|&sector| {
                let start = sector * SECTOR_ENTRIES;
                let end = self.len().min(start + SECTOR_ENTRIES);
                let entry = |index| entries.get(index).copied().unwrap_or(0);
                let bytes = (start..end).flat_map(|index| u64::to_be_bytes(entry(index)));
                (self.offset.get() + start as u64 * 8, bytes.collect())
            })
            .collect();
        RootBatch { sectors, writes }
    }

    /// The batch is not, or not all, in the file: all of it is dirty again.
    pub fn restore(&self, batch: RootBatch) {
        self.dirty.borrow_mut().extend(batch.sectors);
    }
}

#[cfg(test)]
mod tests;
