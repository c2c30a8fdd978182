//! Which clusters of the file hold metadata, so that no write lands on a table it is not meant for.

use std::{cell::RefCell, collections::BTreeMap, fmt};

use crate::qcow2::layout::geometry::{HostCluster, HostRun};

/// What a cluster of metadata holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataKind {
    /// Header, extensions and backing file name.
    Header,
    /// The active L1 table.
    L1,
    /// An active L2 table.
    L2,
    /// The refcount table.
    RefcountTable,
    /// A refcount block.
    RefcountBlock,
    /// The table of internal snapshots.
    SnapshotTable,
    /// The L1 table of an internal snapshot.
    SnapshotL1,
    /// The directory of persistent bitmaps.
    BitmapDirectory,
    /// The table of a persistent bitmap.
    BitmapTable,
    /// Bits of a persistent bitmap.
    BitmapData,
}

impl fmt::Display for MetadataKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "the header",
            Self::L1 => "the L1 table",
            Self::L2 => "an L2 table",
            Self::RefcountTable => "the refcount table",
            Self::RefcountBlock => "a refcount block",
            Self::SnapshotTable => "the snapshot table",
            Self::SnapshotL1 => "the L1 table of a snapshot",
            Self::BitmapDirectory => "the bitmap directory",
            Self::BitmapTable => "the table of a bitmap",
            Self::BitmapData => "a bitmap",
        })
    }
}

/// The clusters of metadata.
#[derive(Debug, Default)]
pub struct MetadataMap(RefCell<BTreeMap<u64, MetadataKind>>);

impl MetadataMap {
    /// Notes that the run holds `kind`.
    ///
    /// # Errors
    /// What is there already; nothing has been noted then.
    pub fn insert(&self, run: HostRun, kind: MetadataKind) -> Result<(), MetadataKind> {
        if let Some(found) = self.find(run) {
            return Err(found);
        }
        let clusters = run.first.0..run.end().0;
        self.0.borrow_mut().extend(clusters.map(|c| (c, kind)));
        Ok(())
    }

    /// The run holds no metadata any more.
    pub fn remove(&self, run: HostRun) {
        let mut map = self.0.borrow_mut();
        for cluster in run.first.0..run.end().0 {
            map.remove(&cluster);
        }
    }

    /// Notes all that another map holds.
    ///
    /// # Errors
    /// What of it lies on what is there already; nothing has been noted then.
    pub fn absorb(&self, other: &Self) -> Result<(), (MetadataKind, MetadataKind)> {
        let (mut map, other) = (self.0.borrow_mut(), other.0.borrow());
        for (cluster, &kind) in other.iter() {
            if let Some(&found) = map.get(cluster) {
                return Err((kind, found));
            }
        }
        map.extend(other.iter());
        Ok(())
    }

    /// Forgets what [`MetadataMap::absorb`] has noted.
    pub fn give_up(&self, other: &Self) {
        let mut map = self.0.borrow_mut();
        for cluster in other.0.borrow().keys() {
            map.remove(cluster);
        }
    }

    /// Metadata within the run.
    pub fn find(&self, run: HostRun) -> Option<MetadataKind> {
        let map = self.0.borrow();
        map.range(run.first.0..run.end().0)
            .next()
            .map(|(_, &kind)| kind)
    }

    /// What one cluster holds.
    pub fn at(&self, cluster: HostCluster) -> Option<MetadataKind> {
        self.find(HostRun::one(cluster))
    }
}
