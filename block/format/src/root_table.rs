//! A table that is kept in memory as a whole: L1, or the refcount table.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
};

use strata_storage::{Storage, error::IoResult};

/// Entries in what a disk writes as a whole, 512 bytes.
const SECTOR_ENTRIES: usize = 64;

/// 64-bit big-endian entries, and which of them the file does not have yet.
pub struct RootTable {
    offset: Cell<u64>,
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
        Ok(Self {
            offset: Cell::new(offset),
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
        self.entries.borrow().len()
    }

    /// The entry at `index`; 0 behind the end.
    pub fn get(&self, index: usize) -> u64 {
        self.entries.borrow().get(index).copied().unwrap_or(0)
    }

    /// Sets the entry at `index`, in memory.
    pub fn set(&self, index: usize, value: u64) {
        self.entries.borrow_mut()[index] = value;
        self.dirty.borrow_mut().insert(index / SECTOR_ENTRIES);
    }

    /// A copy of all entries.
    pub fn entries(&self) -> Vec<u64> {
        self.entries.borrow().clone()
    }

    /// The table has moved: `entries` are in the file at `offset`.
    pub fn moved(&self, offset: u64, entries: Vec<u64>) {
        self.offset.set(offset);
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
                let end = entries.len().min(start + SECTOR_ENTRIES);
                let bytes = entries[start..end].iter().flat_map(|e| e.to_be_bytes());
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
