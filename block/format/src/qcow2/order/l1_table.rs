//! The active L1 table: moving it to where it can be larger, or where another one is.

use strata_exec::mem::to_usize;
use strata_storage::error::IoResult;

use super::Order;
use crate::qcow2::{
    layout::{geometry::HostRun, header::Header},
    space::MetadataKind,
    tables::Linking,
};

impl Order {
    /// Makes room for `entries` entries in the L1 table. The caller has checked that they are not
    /// more than a table may have.
    pub async fn grow_l1(&self, entries: u64) -> IoResult<()> {
        let entries = to_usize(entries);
        if entries <= self.tables.l1_len() {
            return Ok(());
        }
        // New L2 tables wait: until the header has changed, L1 names those that it does now.
        let linking = self.tables.exclude_linking().await;
        let mut table = self.tables.l1_entries();
        table.resize(entries, 0);
        let old = self.replace_l1(&linking, table, |_| ()).await?;
        self.space.free_later(old);
        Ok(())
    }

    /// Puts the L1 table `entries` in the place of the active one, in new clusters: durable before
    /// the header names it (rule W4). `change` is made to the header at the same moment. Returns
    /// the clusters of the old table, which the caller frees.
    ///
    /// With `linking` nothing else changes the active table meanwhile.
    pub async fn replace_l1(
        &self,
        linking: &Linking<'_>,
        mut entries: Vec<u64>,
        change: impl FnOnce(&mut Header),
    ) -> IoResult<HostRun> {
        let g = &self.geometry;
        if entries.is_empty() {
            entries.push(0);
        }
        let len = entries.len() as u64 * 8;
        let to = self.space.allocate_adjacent(g.clusters_for(len)).await?;
        self.space.note_metadata(to, MetadataKind::L1)?;
        let old = HostRun {
            first: g.host_cluster(self.tables.l1_offset()),
            count: g.clusters_for(self.tables.l1_len() as u64 * 8),
        };
        let result = self.switch_l1(to, &entries, change).await;
        let gone = if result.is_ok() { old } else { to };
        self.space.forget_metadata(gone);
        if let Err(error) = result {
            // After an error of the header nothing is written, and this neither.
            self.space.deallocate(to).await;
            return Err(error);
        }
        self.tables
            .l1_replaced(linking, g.host_offset(to.first), entries);
        Ok(old)
    }

    async fn switch_l1(
        &self,
        to: HostRun,
        entries: &[u64],
        change: impl FnOnce(&mut Header),
    ) -> IoResult<()> {
        let g = &self.geometry;
        let offset = g.host_offset(to.first);
        let mut bytes: Vec<u8> = entries.iter().flat_map(|e| e.to_be_bytes()).collect();
        bytes.resize(to_usize(to.count * g.cluster_size()), 0);
        self.file.storage().write_vec(offset, bytes).await?;
        // What the entries name, and the refcounts of the table itself.
        self.flush().await?;
        let _excluded = self.file.exclude_tables().await;
        let change = |header: &mut Header| {
            header.l1_offset = offset;
            header.l1_size = u32::try_from(entries.len()).expect("an L1 table of 32 MiB at most");
            change(header);
        };
        self.file.change_header(change).await
    }
}
