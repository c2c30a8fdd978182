//! Which clusters of the file are in use, by how many, and for what: allocating and releasing them,
//! refcounts, clusters on their way to being free, and where metadata lies.
//!
//! Lies on [`file`](super::file).

mod adjacent;
mod alloc;
mod bytes;
mod empty_blocks;
mod freed;
mod metadata_map;
mod refcount;
mod refcount_table;
mod release;
mod write_back;

use std::{cell::Cell, rc::Rc};

pub use freed::Operation;
use freed::{FreedClusters, FreedRun};
pub(in crate::qcow2) use metadata_map::{MetadataKind, MetadataMap};
pub(in crate::qcow2) use refcount::RefcountUpdate;
use refcount::Refcounts;
pub(in crate::qcow2) use write_back::SpaceBatch;

use strata_storage::error::IoResult;

use crate::{
    qcow2::{
        file::ImageFile,
        layout::geometry::{Geometry, HostCluster, HostRun},
        lock_order::LockOrder,
    },
    root_table::RootTable,
    table_cache::TableCache,
};

/// The clusters of an open image's file.
pub(in crate::qcow2) struct Space {
    file: Rc<ImageFile>,
    geometry: Geometry,
    refcounts: Refcounts,
    metadata: MetadataMap,
    freed: FreedClusters,
    /// Where the next compressed cluster goes, if one is being filled.
    packing: Cell<Option<u64>>,
    /// How often clusters have become free.
    releases: Cell<u64>,
    /// Holes are punched where clusters are freed.
    discard: bool,
}

impl Space {
    /// The clusters of `file`, of which nothing has been looked at yet but where `metadata` lies.
    pub fn new(
        file: Rc<ImageFile>,
        table: RootTable,
        blocks: TableCache,
        metadata: MetadataMap,
        discard: bool,
        order: &Rc<LockOrder>,
    ) -> Self {
        let geometry = *file.geometry();
        let clusters = geometry.clusters_for(file.storage().len());
        Self {
            file,
            geometry,
            refcounts: Refcounts::new(table, blocks, clusters, order),
            metadata,
            freed: FreedClusters::default(),
            packing: Cell::new(None),
            releases: Cell::new(0),
            discard,
        }
    }

    /// Keeps clusters that are looked up from now on from being allocated again, until the guard
    /// is dropped.
    pub fn operation(&self) -> Operation {
        self.freed.operation()
    }

    /// The run's table entries have been cleared in memory: it is free once no operation can know
    /// it.
    pub fn free_later(&self, run: HostRun) {
        self.freed.push(run);
    }

    /// Whether clusters wait to be freed.
    pub fn has_freed(&self) -> bool {
        !self.freed.is_empty()
    }

    /// How often clusters have become free: what was remembered of clusters that no operation
    /// pins is no longer true when this has changed.
    pub fn releases(&self) -> u64 {
        self.releases.get()
    }

    /// Notes that the run holds metadata, which it did not before.
    ///
    /// # Errors
    /// There is other metadata: the image is corrupt and is not written any more.
    pub fn note_metadata(&self, run: HostRun, kind: MetadataKind) -> IoResult<()> {
        self.metadata.insert(run, kind).map_err(|found| {
            let offset = self.geometry.host_offset(run.first);
            let error = self
                .file
                .corrupt(format!("{kind} at {offset:#x} would overlap {found}"));
            self.file.stop_after(&error);
            error
        })
    }

    /// As [`Space::note_metadata`], for what an image that is being opened names.
    ///
    /// # Errors
    /// What is there already.
    pub fn note_found(&self, run: HostRun, kind: MetadataKind) -> Result<(), MetadataKind> {
        self.metadata.insert(run, kind)
    }

    /// Notes all that `map` holds.
    ///
    /// # Errors
    /// What of it lies on what is there already; nothing has been noted then.
    pub fn absorb_metadata(&self, map: &MetadataMap) -> Result<(), (MetadataKind, MetadataKind)> {
        self.metadata.absorb(map)
    }

    /// Forgets what [`Space::absorb_metadata`] has noted.
    pub fn give_up_metadata(&self, map: &MetadataMap) {
        self.metadata.give_up(map);
    }

    /// The run holds no metadata any more.
    pub fn forget_metadata(&self, run: HostRun) {
        self.metadata.remove(run);
    }

    /// What metadata a cluster holds.
    pub fn metadata_at(&self, cluster: HostCluster) -> Option<MetadataKind> {
        self.metadata.at(cluster)
    }

    /// Checks that data at `offset` of the file lies on no metadata.
    ///
    /// # Errors
    /// It would: the image is corrupt and is not written any more.
    pub fn check_data(&self, offset: u64, len: u64) -> IoResult<()> {
        let g = &self.geometry;
        if g.external_data {
            return Ok(());
        }
        let run = HostRun {
            first: g.host_cluster(offset),
            count: g.clusters_for(g.in_cluster(offset) + len),
        };
        let Some(kind) = self.metadata.find(run) else {
            return Ok(());
        };
        let error = self
            .file
            .corrupt(format!("data at {offset:#x} would overwrite {kind}"));
        self.file.stop_after(&error);
        Err(error)
    }

    /// A free cluster that holds metadata means wrong refcounts: nothing more can be trusted.
    fn check_unused(&self, run: HostRun) -> IoResult<()> {
        let Some(kind) = self.metadata.find(run) else {
            return Ok(());
        };
        let offset = self.geometry.host_offset(run.first);
        let error = self
            .file
            .corrupt(format!("clusters at {offset:#x} are free but hold {kind}"));
        self.file.stop_after(&error);
        Err(error)
    }
}
