//! Applying a snapshot: the disk becomes again what it was.

use std::collections::BTreeSet;
use strata_exec::mem::to_usize;

use strata_storage::error::{IoResult, Result};

use crate::qcow2::{
    Qcow2,
    layout::{
        entry::{self, COPIED, Entry},
        geometry::{HostCluster, HostRun},
        header::Header,
    },
    space::MetadataKind,
};

impl Qcow2 {
    /// Gives the disk the content and the size of the snapshot with the id `id`; what it held is
    /// given up. Durable when this returns; a crash leaves the disk as it was, or as the snapshot.
    /// Nothing else uses the image meanwhile. The caller records the change in the bitmaps.
    ///
    /// # Errors
    /// There is no such snapshot, or its tables are not valid; refcounts are too narrow; the disk
    /// is as it was then. After the host's error the image has stopped.
    pub async fn apply_snapshot(&self, id: &str) -> Result<()> {
        let snapshots = self.snapshots().await?;
        let found = snapshots.into_iter().find(|snapshot| snapshot.id == id);
        let found = found.ok_or_else(|| self.file.refused(format!("no snapshot '{id}'")))?;
        let g = &self.geometry;
        let size = found.disk_size.unwrap_or(self.data.size());
        if size > g.max_size() || !size.is_multiple_of(512) {
            return Err(self
                .file
                .refused(format!("the snapshot's disk of {size} bytes is not valid")));
        }
        let l1 = self.read_l1(found.l1_offset, found.l1_size).await?;
        let mut l1: Vec<u64> = l1.into_iter().map(|raw| raw & !COPIED).collect();
        let needed = (to_usize(g.l1_entries(size))).max(l1.len());
        l1.resize(needed, 0);
        let tables = self.check_tables(&l1)?;
        self.begin_snapshot_change(&[&l1, &self.tables.l1_entries()])
            .await?;
        let result = async {
            self.clear_flags_in_file(&l1).await?;
            let mut raised = 0;
            if !self.raise_references(&l1, &mut raised).await? {
                self.lower_references(&l1, raised).await?;
                self.end_snapshot_change().await?;
                return Ok(false);
            }
            self.become_snapshot(l1, tables, size).await?;
            self.end_snapshot_change().await?;
            Ok(true)
        }
        .await;
        if self.give_up(result)? {
            Ok(())
        } else {
            Err(self.too_many_references().into())
        }
    }

    /// The L2 tables of an L1 table that is to become the active one: each named once, and none
    /// where other metadata lies.
    fn check_tables(&self, l1: &[u64]) -> IoResult<BTreeSet<HostCluster>> {
        let mut tables = BTreeSet::new();
        for &raw in l1 {
            let table = self.tables.decode_l1(raw)?;
            let Some(table) = table else { continue };
            let other = self
                .space
                .metadata_at(table.host)
                .filter(|&kind| kind != MetadataKind::L2);
            if other.is_some() || !tables.insert(table.host) {
                return Err(self
                    .file
                    .corrupt(format!("L1 entry {raw:#x} of a snapshot is not valid")));
            }
        }
        Ok(tables)
    }

    /// Clears COPIED flags in the L2 tables of a snapshot, where they have no meaning: in the
    /// active ones they would say that there is one reference. Durable with the next flush.
    async fn clear_flags_in_file(&self, l1: &[u64]) -> IoResult<()> {
        let g = &self.geometry;
        for &raw in l1 {
            let Some(table) = self.read_table(raw).await? else {
                continue;
            };
            let flagged = |entry: &Entry| entry.host().is_some_and(|(_, copied)| copied);
            if !table.entries.iter().any(flagged) {
                continue;
            }
            let mut bytes = Vec::with_capacity(g.cluster_len());
            for entry in table.entries {
                let raw = entry::encode_l2(entry, g);
                let flag = if flagged(&entry) { COPIED } else { 0 };
                bytes.extend((raw.descriptor & !flag).to_be_bytes());
                if g.extended_l2 {
                    bytes.extend(raw.bitmap.to_be_bytes());
                }
            }
            let offset = g.host_offset(table.host);
            self.file.storage().write_vec(offset, bytes).await?;
            self.tables.forget(table.host);
        }
        Ok(())
    }

    /// Changes the active L1 table and the size at one moment, then frees what was before.
    async fn become_snapshot(
        &self,
        l1: Vec<u64>,
        tables: BTreeSet<HostCluster>,
        size: u64,
    ) -> IoResult<()> {
        let linking = self.tables.exclude_linking().await;
        let old_l1 = self.tables.l1_entries();
        let resize = |header: &mut Header| header.size = size;
        let old = self.order.replace_l1(&linking, l1, resize).await?;
        self.data.set_size(size);
        drop(linking);
        self.space.free_later(old);
        for &raw in &old_l1 {
            let table = self.tables.decode_l1(raw)?;
            if let Some(table) = table {
                self.tables.retire(table.host);
            }
        }
        for table in tables {
            self.space
                .note_metadata(HostRun::one(table), MetadataKind::L2)?;
        }
        self.bitmaps().resize(size);
        self.free_references(&old_l1).await
    }
}
