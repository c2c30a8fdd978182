//! The active L1 table: moving it to where it can be larger, or where another one is.

use crate::{
    error::IoResult,
    qcow2::{
        Qcow2,
        layout::{geometry::HostRun, header::Header},
        space::metadata_map::Kind,
    },
};

impl Qcow2 {
    /// Makes room for `entries` entries in the L1 table. The caller has checked that they are not
    /// more than a table may have.
    pub(in crate::qcow2) async fn grow_l1(&self, entries: u64) -> IoResult<()> {
        let entries = entries as usize;
        if entries <= self.l1.len() {
            return Ok(());
        }
        // New L2 tables wait: until the header has changed, L1 names those that it does now.
        let _linking = self.linking.lock().await;
        let mut table = self.l1.entries();
        table.resize(entries, 0);
        let old = self.replace_l1(table, |_| ()).await?;
        self.freed.push(old);
        Ok(())
    }

    /// Puts the L1 table `entries` in the place of the active one, in new clusters: durable before
    /// the header names it (rule W4). `change` is made to the header at the same moment. Returns
    /// the clusters of the old table, which the caller lets go of.
    ///
    /// The caller holds `linking`, so that nobody changes the active table meanwhile.
    pub(in crate::qcow2) async fn replace_l1(
        &self,
        mut entries: Vec<u64>,
        change: impl FnOnce(&mut Header),
    ) -> IoResult<HostRun> {
        let g = &self.geometry;
        if entries.is_empty() {
            entries.push(0);
        }
        let len = entries.len() as u64 * 8;
        let to = self.allocate_adjacent(g.clusters_for(len)).await?;
        self.note_metadata(to, Kind::L1)?;
        let old = HostRun {
            first: g.host_cluster(self.l1.offset()),
            count: g.clusters_for(self.l1.len() as u64 * 8),
        };
        let result = self.switch_l1(to, &entries, change).await;
        let gone = if result.is_ok() { old } else { to };
        self.metadata.remove(gone);
        if let Err(error) = result {
            // After an error of the header nothing is written, and this neither.
            self.give_back(to).await;
            return Err(error);
        }
        self.l1.moved(g.host_offset(to.first), entries);
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
        bytes.resize((to.count * g.cluster_size()) as usize, 0);
        self.file.write_vec(offset, bytes).await?;
        // What the entries name, and the refcounts of the table itself.
        self.flush().await?;
        let _writing = self.flushes.exclude().await;
        let _edit = self.header_edit.lock().await;
        let mut area = self.area.borrow().clone();
        area.header.l1_offset = offset;
        area.header.l1_size = entries.len() as u32;
        change(&mut area.header);
        self.write_fields(area).await
    }
}
