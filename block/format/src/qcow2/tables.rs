//! Where the clusters of the disk lie: L1, slices of L2 tables, looking up and changing entries,
//! and tables that may be written.
//!
//! Lies on [`file`](super::file) and [`space`](super::space).

mod l2_table;
mod lookup;
mod write_back;

use std::rc::Rc;

pub(in crate::qcow2) use lookup::MappedRun;
pub(in crate::qcow2) use write_back::TablesBatch;

use strata_storage::error::IoResult;

use crate::{
    qcow2::{
        file::ImageFile,
        layout::{
            entry::{self, TableRef},
            geometry::{Geometry, GuestCluster, HostCluster},
        },
        lock_order::{LockOrder, Rank, RankedGuard, RankedLock},
        space::Space,
    },
    root_table::RootTable,
    table_cache::{Slice, TableCache},
};

/// The tables of an open image's disk.
pub(in crate::qcow2) struct Tables {
    file: Rc<ImageFile>,
    space: Rc<Space>,
    geometry: Geometry,
    l1: RootTable,
    l2: TableCache,
    /// Held while a new L2 table is linked, or L1 is replaced.
    linking: RankedLock,
}

/// Keeps L2 tables from being linked.
pub(in crate::qcow2) struct Linking<'a> {
    _guard: RankedGuard<'a>,
}

impl Tables {
    /// The tables that `l1` leads to.
    pub fn new(
        file: Rc<ImageFile>,
        space: Rc<Space>,
        l1: RootTable,
        l2: TableCache,
        order: &Rc<LockOrder>,
    ) -> Self {
        let geometry = *file.geometry();
        Self {
            file,
            space,
            geometry,
            l1,
            l2,
            linking: RankedLock::new(Rank::Linking, order),
        }
    }

    /// Waits until no L2 table is being linked, and keeps it so: until the guard is dropped only
    /// its holder changes which tables there are.
    pub async fn exclude_linking(&self) -> Linking<'_> {
        Linking {
            _guard: self.linking.lock().await,
        }
    }

    /// Number of entries of L1.
    pub fn l1_len(&self) -> usize {
        self.l1.len()
    }

    /// A copy of L1.
    pub fn l1_entries(&self) -> Vec<u64> {
        self.l1.entries()
    }

    /// Where L1 lies in the file.
    pub fn l1_offset(&self) -> u64 {
        self.l1.offset()
    }

    /// The L2 table that L1 names at `index`, if there is one.
    ///
    /// # Errors
    /// The entry is corrupt.
    pub fn l1_entry(&self, index: usize) -> IoResult<Option<TableRef>> {
        self.decode_l1(self.l1.get(index))
    }

    /// The L2 table that a raw L1 entry names, if there is one.
    ///
    /// # Errors
    /// The entry is corrupt.
    pub fn decode_l1(&self, raw: u64) -> IoResult<Option<TableRef>> {
        entry::decode_l1(raw, &self.geometry).map_err(|why| self.file.corrupt(why))
    }

    /// Changes the flag of the L1 entry at `index`, which names a table.
    pub fn toggle_l1_copied(&self, index: usize) {
        self.l1.set(index, self.l1.get(index) ^ entry::COPIED);
    }

    /// L1 has been replaced by `entries`, which lie in the file at `offset`.
    pub fn l1_replaced(&self, _linking: &Linking<'_>, offset: u64, entries: Vec<u64>) {
        self.l1.moved(offset, entries);
    }

    /// From now on the disk is what the L1 table with `entries`, in the file at `offset`, leads to.
    /// Nothing is ever written.
    pub fn show(&self, offset: u64, entries: Vec<u64>) {
        debug_assert!(self.file.is_read_only());
        self.l1.moved(offset, entries);
    }

    /// The slice with the entry of `cluster`, in the L2 table in `table`.
    ///
    /// # Errors
    /// The read's error.
    pub async fn slice(&self, table: HostCluster, cluster: GuestCluster) -> IoResult<Rc<Slice>> {
        let g = &self.geometry;
        let offset = g.host_offset(table) + g.slice_in_table(cluster);
        self.l2.get(offset).await
    }

    /// Forgets what is cached of the L2 table in `table`, which is not used any more or has been
    /// changed in the file.
    pub fn forget(&self, table: HostCluster) {
        let g = &self.geometry;
        self.l2.forget(g.host_offset(table), g.cluster_size());
    }

    /// Whether so much is dirty that it should be written back before more is loaded.
    pub fn is_crowded(&self) -> bool {
        self.l2.is_crowded()
    }
}
