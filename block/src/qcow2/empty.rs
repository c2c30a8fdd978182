//! Giving up all that an image holds, so that its disk shows what lies below.

use super::{
    Qcow2,
    entry::{self, TableRef},
    geometry::HostRun,
};
use crate::{error::IoResult, exec::yield_now};

/// Clusters that are given up between two flushes: bounds what has to be remembered.
const BATCH: u64 = 1 << 20;

impl Qcow2 {
    /// Gives up all clusters and L2 tables of the active disk; internal snapshots keep theirs.
    /// Nothing else uses the image meanwhile. A table goes as a whole: L1 is cleared on disk before
    /// any of its clusters can be used again (rule W3).
    ///
    /// # Errors
    /// The host's error, or that the tables are corrupt. What is left shows the same as before.
    pub async fn make_empty(&self) -> IoResult<()> {
        self.begin_write().await?;
        // From now on no table in memory differs from the file.
        self.flush().await?;
        let mut clusters = 0;
        for index in 0..self.l1.len() {
            let raw = self.l1.get(index);
            let table = entry::decode_l1(raw, &self.geometry).map_err(|why| self.corrupt(why))?;
            let Some(table) = table else { continue };
            clusters += self.give_up_table(index, table).await?;
            if clusters >= BATCH {
                self.flush().await?;
                clusters = 0;
            }
            yield_now().await;
        }
        self.flush().await
    }

    /// Gives up one L2 table and what it names; returns how many clusters that may be.
    async fn give_up_table(&self, index: usize, table: TableRef) -> IoResult<u64> {
        let g = &self.geometry;
        let offset = g.host_offset(table.host);
        let mut named = Vec::new();
        for start in (0..g.cluster_size()).step_by(g.slice_bytes() as usize) {
            let slice = self.l2.get(offset + start).await?;
            for n in 0..g.slice_entries() as usize {
                let entry = self.l2_entry(&slice, n);
                named.push(entry.map_err(|why| self.corrupt(why))?);
            }
        }
        self.l1.set(index, 0);
        let run = HostRun::one(table.host);
        self.metadata.remove(run);
        self.l2.forget(offset, g.cluster_size());
        self.freed.push(run);
        let count = named.len() as u64;
        named.into_iter().for_each(|old| self.let_go(old, None));
        Ok(count + 1)
    }
}
