//! Entries of L2 tables, and tables that may be written: new ones, and own copies of shared ones.

use std::rc::Rc;
use strata_exec::mem::to_usize;

use strata_storage::error::IoResult;

use super::Tables;
use crate::{
    qcow2::{
        layout::{
            entry::{self, Entry, RawEntry, TableRef},
            geometry::{GuestCluster, HostCluster, HostRun},
        },
        space::MetadataKind,
    },
    table_cache::Slice,
};

impl Tables {
    /// The L2 entry at `index` of a slice, as it lies in the file.
    pub(super) fn raw_entry(&self, slice: &Slice, index: usize) -> RawEntry {
        if self.geometry.extended_l2 {
            RawEntry {
                descriptor: slice.entry(index * 2),
                bitmap: slice.entry(index * 2 + 1),
            }
        } else {
            RawEntry {
                descriptor: slice.entry(index),
                bitmap: 0,
            }
        }
    }

    /// The L2 entry at `index` of a slice.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn entry(&self, slice: &Slice, index: usize) -> IoResult<Entry> {
        let entry = entry::decode_l2(self.raw_entry(slice, index), &self.geometry);
        entry.map_err(|why| self.file.corrupt(why))
    }

    /// Sets the L2 entry at `index` of a slice.
    pub fn set_entry(&self, slice: &Slice, index: usize, entry: Entry) {
        let RawEntry { descriptor, bitmap } = entry::encode_l2(entry, &self.geometry);
        if self.geometry.extended_l2 {
            self.l2.set_entry(slice, index * 2, descriptor);
            self.l2.set_entry(slice, index * 2 + 1, bitmap);
        } else {
            self.l2.set_entry(slice, index, descriptor);
        }
    }

    /// The host clusters of `old` are no longer named by an entry that now names `kept`.
    pub fn free_old_clusters(&self, old: Entry, kept: Option<HostCluster>) {
        let g = &self.geometry;
        match old {
            // Nothing else can use its place.
            _ if g.external_data => {}
            Entry::Plain {
                host: Some((host, _)),
                ..
            } if Some(host) != kept => self.space.free_later(HostRun::one(host)),
            Entry::Plain { .. } => {}
            Entry::Compressed { offset, len } => {
                let first = g.host_cluster(offset);
                let count = g.clusters_for(g.in_cluster(offset) + len);
                self.space.free_later(HostRun { first, count });
            }
        }
    }

    /// The slice that holds the entry of `cluster`, in a table with refcount one. The caller has
    /// made room in the cache.
    pub async fn slice_for_write(&self, cluster: GuestCluster) -> IoResult<Rc<Slice>> {
        let table = self.table_for_write(cluster).await?;
        self.slice(table, cluster).await
    }

    /// The L2 table for `cluster`; made if there is none. L1 names it in memory at once and on
    /// disk once the table is durable (rule W4).
    async fn table_for_write(&self, cluster: GuestCluster) -> IoResult<HostCluster> {
        let index = self.geometry.l1_index(cluster);
        if let Some(TableRef { host, copied: true }) = self.l1_entry(index)? {
            return Ok(host);
        }
        let _linking = self.exclude_linking().await;
        let old = match self.l1_entry(index)? {
            Some(TableRef { host, copied: true }) => return Ok(host),
            other => other,
        };
        let new = self.space.allocate(1).await?.run;
        if let Err(error) = self.fill_table(new.first, old).await {
            self.space.deallocate(new).await;
            return Err(error);
        }
        // Its place may have been a table's before, of which a piece has been read late.
        self.forget(new.first);
        self.space.note_metadata(new, MetadataKind::L2)?;
        self.l1
            .set(index, entry::encode_l1(new.first, &self.geometry));
        if let Some(old) = old {
            self.retire(old.host);
            self.space.free_later(HostRun::one(old.host));
        }
        Ok(new.first)
    }

    /// The cluster `table` is no longer an active L2 table.
    pub fn retire(&self, table: HostCluster) {
        self.space.forget_metadata(HostRun::one(table));
        self.forget(table);
    }

    /// Writes a new table: empty, or as the one it takes the place of.
    async fn fill_table(&self, new: HostCluster, old: Option<TableRef>) -> IoResult<()> {
        let g = &self.geometry;
        let offset = g.host_offset(new);
        let file = self.file.storage();
        match old {
            None => file.write_zeroes(offset, g.cluster_size(), false).await,
            Some(old) => {
                let bytes = file
                    .read_vec(g.host_offset(old.host), g.cluster_len())
                    .await?;
                file.write_vec(offset, bytes).await
            }
        }
    }

    /// Takes an L2 table out of L1. Nothing that it names is freed.
    pub async fn clear_l1_entry(&self, index: usize, table: TableRef) {
        let _linking = self.exclude_linking().await;
        self.l1.set(index, 0);
        self.retire(table.host);
    }

    /// Takes an L2 table out of L1. What it names has one reference less then, also where snapshots
    /// share the table.
    pub async fn drop_table(&self, index: usize, table: TableRef) -> IoResult<()> {
        let g = &self.geometry;
        let _linking = self.exclude_linking().await;
        let offset = g.host_offset(table.host);
        let mut named = Vec::new();
        for start in (0..g.cluster_size()).step_by(to_usize(g.slice_bytes())) {
            let slice = self.l2.get(offset + start).await?;
            for n in 0..to_usize(g.slice_entries()) {
                named.push(self.entry(&slice, n)?);
            }
        }
        self.l1.set(index, 0);
        self.retire(table.host);
        self.space.free_later(HostRun::one(table.host));
        for entry in named {
            self.free_old_clusters(entry, None);
        }
        Ok(())
    }
}
