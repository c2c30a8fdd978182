//! The cache of table slices: pieces of L2 tables or of refcount blocks, written back in batches.
//!
//! A slice that someone holds, that is dirty or that is being written stays. Nothing is written
//! here at a time of the cache's own choosing: the order of writes is decided in `flush.rs`.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
};

use strata_exec::sync::WaitQueue;
use strata_storage::{Storage, error::IoResult};

/// A piece of a table, in memory.
pub struct Slice {
    offset: u64,
    bytes: RefCell<Vec<u8>>,
    /// Differs from what was last handed to the file.
    dirty: Cell<bool>,
    /// A write is under way.
    writing: Cell<bool>,
    last_used: Cell<u64>,
}

impl Slice {
    /// The 64-bit big-endian entry at `index`.
    pub fn entry(&self, index: usize) -> u64 {
        let bytes = self.bytes.borrow();
        bytes[index * 8..index * 8 + 8]
            .iter()
            .fold(0, |value, &byte| value << 8 | u64::from(byte))
    }

    /// Looks at the bytes.
    pub fn with<T>(&self, look: impl FnOnce(&[u8]) -> T) -> T {
        look(&self.bytes.borrow())
    }
}

/// What the cache has under an offset.
enum Place {
    /// Being read from the file.
    Loading(Rc<Load>),
    Here(Rc<Slice>),
}

/// A slice that is being read from the file.
#[derive(Default)]
struct Load {
    ended: WaitQueue,
    /// Set where the table has been given up meanwhile: then it never gets a place in the cache,
    /// and each task that waited for it gets what it said when that task asked.
    result: RefCell<Option<Rc<Slice>>>,
}

/// Slices of one kind, by their offset in the file.
pub struct TableCache {
    file: Storage,
    slice_bytes: usize,
    /// Slices to keep at most, as long as none has to stay.
    limit: usize,
    places: RefCell<HashMap<u64, Place>>,
    clock: Cell<u64>,
    dirty: Cell<usize>,
}

/// Bytes that were dirty at one moment and are to be written.
#[derive(Default)]
pub struct CacheBatch {
    slices: Vec<Rc<Slice>>,
    /// Offset and bytes, ascending.
    pub writes: Vec<(u64, Vec<u8>)>,
}

impl TableCache {
    /// An empty cache of at most about `budget` bytes.
    pub fn new(file: Storage, slice_bytes: u64, budget: usize) -> Self {
        let slice_bytes = usize::try_from(slice_bytes).unwrap_or(usize::MAX);
        let limit = budget / slice_bytes;
        Self {
            file,
            slice_bytes,
            limit: limit.max(8),
            places: RefCell::default(),
            clock: Cell::new(0),
            dirty: Cell::new(0),
        }
    }

    /// The slice at `offset` of the file, read from there if need be.
    ///
    /// # Errors
    /// The read's error.
    pub async fn get(&self, offset: u64) -> IoResult<Rc<Slice>> {
        loop {
            let waiting = match self.places.borrow().get(&offset) {
                Some(Place::Here(slice)) => {
                    slice.last_used.set(self.tick());
                    return Ok(slice.clone());
                }
                Some(Place::Loading(load)) => Some(load.clone()),
                None => None,
            };
            let Some(load) = waiting else {
                return self.load(offset).await;
            };
            load.ended.wait().await;
            if let Some(slice) = load.result.borrow().clone() {
                return Ok(slice);
            }
        }
    }

    async fn load(&self, offset: u64) -> IoResult<Rc<Slice>> {
        let load = Rc::new(Load::default());
        let loading = Place::Loading(load.clone());
        self.places.borrow_mut().insert(offset, loading);
        let read = self.file.read_vec(offset, self.slice_bytes).await;
        load.ended.wake_all();
        // Otherwise the table has been given up, and there may be another one in its place.
        let kept = matches!(
            self.places.borrow().get(&offset),
            Some(Place::Loading(present)) if Rc::ptr_eq(present, &load)
        );
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) => {
                if kept {
                    self.places.borrow_mut().remove(&offset);
                }
                return Err(error);
            }
        };
        let slice = Rc::new(Slice {
            offset,
            bytes: RefCell::new(bytes),
            dirty: Cell::new(false),
            writing: Cell::new(false),
            last_used: Cell::new(self.tick()),
        });
        if !kept {
            *load.result.borrow_mut() = Some(slice.clone());
            return Ok(slice);
        }
        let here = Place::Here(slice.clone());
        self.places.borrow_mut().insert(offset, here);
        self.evict();
        Ok(slice)
    }

    /// Changes a slice's bytes.
    pub fn update<T>(&self, slice: &Slice, change: impl FnOnce(&mut [u8]) -> T) -> T {
        if !slice.dirty.replace(true) {
            self.dirty.set(self.dirty.get() + 1);
        }
        change(&mut slice.bytes.borrow_mut())
    }

    /// Sets the 64-bit big-endian entry at `index` of a slice.
    pub fn set_entry(&self, slice: &Slice, index: usize, value: u64) {
        self.update(slice, |bytes| {
            bytes[index * 8..index * 8 + 8].copy_from_slice(&value.to_be_bytes());
        });
    }

    /// Whether so much is dirty that it should be written back before more is loaded.
    pub fn is_crowded(&self) -> bool {
        self.dirty.get() >= self.limit - self.limit / 4
    }

    /// Whether anything is dirty.
    pub fn is_dirty(&self) -> bool {
        self.dirty.get() > 0
    }

    /// Forgets the slices of a table that is no longer used, also those that are being read. None
    /// of them is dirty: tables are only given up once they have stopped changing.
    pub fn forget(&self, offset: u64, len: u64) {
        self.places.borrow_mut().retain(|&at, place| {
            let keep = !(offset..offset + len).contains(&at);
            if let (false, Place::Here(slice)) = (keep, place)
                && slice.dirty.replace(false)
            {
                self.dirty.set(self.dirty.get() - 1);
            }
            keep
        });
    }

    /// Takes what is dirty now. Changes made from now on belong to the next batch.
    pub fn take_dirty(&self) -> CacheBatch {
        let mut slices: Vec<_> = self
            .places
            .borrow()
            .values()
            .filter_map(|place| match place {
                Place::Here(slice) if slice.dirty.get() => Some(slice.clone()),
                _ => None,
            })
            .collect();
        slices.sort_unstable_by_key(|slice| slice.offset);
        let writes = slices
            .iter()
            .map(|slice| {
                slice.dirty.set(false);
                slice.writing.set(true);
                (slice.offset, slice.bytes.borrow().clone())
            })
            .collect();
        self.dirty.set(0);
        CacheBatch { slices, writes }
    }

    /// The batch is in the file.
    pub fn written(&self, batch: &CacheBatch) {
        for slice in &batch.slices {
            slice.writing.set(false);
        }
    }

    /// The batch is not, or not all, in the file: all of it is dirty again.
    pub fn restore(&self, batch: &CacheBatch) {
        for slice in &batch.slices {
            slice.writing.set(false);
            self.update(slice, |_| ());
        }
    }

    /// Drops the slices that were not used for longest, an eighth of the cache at a time.
    fn evict(&self) {
        let mut places = self.places.borrow_mut();
        if places.len() <= self.limit {
            return;
        }
        let mut idle: Vec<_> = places
            .iter()
            .filter_map(|(&offset, place)| match place {
                Place::Here(slice)
                    if !slice.dirty.get()
                        && !slice.writing.get()
                        && Rc::strong_count(slice) == 1 =>
                {
                    Some((slice.last_used.get(), offset))
                }
                _ => None,
            })
            .collect();
        let excess = places.len() - self.limit + self.limit / 8;
        idle.sort_unstable();
        for (_, offset) in idle.into_iter().take(excess) {
            places.remove(&offset);
        }
    }

    fn tick(&self) -> u64 {
        let now = self.clock.get() + 1;
        self.clock.set(now);
        now
    }
}

#[cfg(test)]
mod tests;
