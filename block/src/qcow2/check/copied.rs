//! COPIED flags: set exactly where the refcount is one. A flag too many lets an internal snapshot
//! be overwritten.

use super::Check;
use crate::{
    error::IoResult,
    exec::yield_now,
    qcow2::{
        entry::{self, COPIED, Entry, OFFSET_MASK, RawEntry},
        geometry::HostCluster,
    },
};

impl Check<'_> {
    /// Checks the flags of the active L1 table and of its L2 tables.
    pub(super) async fn copied_flags(&mut self) -> IoResult<()> {
        let g = self.image.geometry;
        for (index, raw) in self.image.l1.entries().into_iter().enumerate() {
            let table = raw & OFFSET_MASK;
            if table == 0 {
                continue;
            }
            let refcount = self.refcount(g.host_cluster(table)).await;
            if (refcount == 1) != (raw & COPIED != 0) {
                self.report.corruption(format!(
                    "ERROR OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={raw:x} refcount={refcount}"
                ));
            }
            if g.in_cluster(table) != 0 || table >= self.image.file.len() {
                continue;
            }
            for raw in self.read_l2(table).await {
                self.copied_flag(raw).await;
            }
            yield_now().await;
        }
        Ok(())
    }

    async fn copied_flag(&mut self, raw: RawEntry) {
        let entry = entry::decode_l2(raw, &self.image.geometry);
        let Ok(Some((host, copied))) = entry.map(Entry::host) else {
            return;
        };
        // Clusters of an external data file have one reference each, whatever the flag says.
        let (refcount, copied) = if self.image.geometry.external_data {
            (1, raw.descriptor & COPIED != 0)
        } else {
            (self.refcount(host).await, copied)
        };
        if (refcount == 1) != copied {
            let descriptor = raw.descriptor;
            self.report.corruption(format!(
                "ERROR OFLAG_COPIED data cluster: l2_entry={descriptor:x} refcount={refcount}"
            ));
        }
    }

    /// A cluster's refcount; 0 where the refcount structures are broken, which has been reported.
    async fn refcount(&mut self, cluster: HostCluster) -> u64 {
        self.image.refcount(cluster).await.unwrap_or(0)
    }
}
