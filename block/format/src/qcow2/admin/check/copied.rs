//! COPIED flags: set exactly where the refcount is one. A flag too many lets an internal snapshot
//! be overwritten.

use strata_exec::yield_now;
use strata_storage::error::IoResult;

use super::Check;
use crate::qcow2::layout::{
    entry::{self, COMPRESSED, COPIED, OFFSET_MASK, RawEntry},
    geometry::HostCluster,
};

impl Check<'_> {
    /// Checks the flags of the active L1 table and of its L2 tables, and sets them right with
    /// `repair`: a refcount of one is on disk before the flag that relies on it.
    pub(super) async fn copied_flags(&mut self, repair: bool) -> IoResult<()> {
        let g = self.image.geometry;
        let found = self.image.tables.l1_entries();
        let mut l1 = found.clone();
        let l1_offset = self.image.tables.l1_offset();
        let repair_l1 = repair && self.is_counted_once(l1_offset, l1.len() as u64 * 8);
        for (index, raw) in l1.iter_mut().enumerate() {
            let table = *raw & OFFSET_MASK;
            if table == 0 {
                continue;
            }
            let refcount = self.refcount(g.host_cluster(table)).await;
            if (refcount == 1) != (*raw & COPIED != 0) {
                self.report.found(
                    repair_l1,
                    &format!(
                        "OFLAG_COPIED L2 cluster: l1_index={index} l1_entry={raw:x} refcount={refcount}"
                    ),
                );
                *raw ^= COPIED;
            }
            if g.in_cluster(table) != 0 || table >= self.image.file.storage().len() {
                continue;
            }
            let repair = repair && self.is_only_table(table);
            self.copied_flags_of_table(table, repair).await?;
            yield_now().await;
        }
        if repair_l1 {
            self.write_changed_l1(l1_offset, &found, &l1).await?;
        }
        Ok(())
    }

    async fn copied_flags_of_table(&mut self, table: u64, repair: bool) -> IoResult<()> {
        let found = self.read_l2(table).await;
        let mut entries = found.clone();
        for raw in &mut entries {
            let Some((host, copied)) = self.flagged(*raw) else {
                continue;
            };
            // Clusters of an external data file have one reference each, whatever the flag says.
            let refcount = if self.image.geometry.external_data {
                1
            } else {
                self.refcount(host).await
            };
            let raw = &mut raw.descriptor;
            if (refcount == 1) != copied {
                self.report.found(
                    repair,
                    &format!("OFLAG_COPIED data cluster: l2_entry={raw:x} refcount={refcount}"),
                );
                *raw ^= COPIED;
            }
        }
        if repair {
            self.write_changed_l2(table, &found, &entries).await?;
        }
        Ok(())
    }

    /// The cluster that an L2 entry names and may be flagged for, and whether it is: also where the
    /// entry is damaged otherwise.
    fn flagged(&self, raw: RawEntry) -> Option<(HostCluster, bool)> {
        let g = &self.image.geometry;
        let copied = raw.descriptor & COPIED != 0;
        if g.external_data {
            let entry = entry::decode_l2(raw, g).ok()?;
            return entry.host().map(|(host, _)| (host, copied));
        }
        let offset = raw.descriptor & OFFSET_MASK;
        let named = raw.descriptor & COMPRESSED == 0 && offset != 0;
        named.then_some((g.host_cluster(offset), copied))
    }

    /// A cluster's refcount, as it is after a repair; 0 where the refcount structures are broken,
    /// which has been reported.
    async fn refcount(&mut self, cluster: HostCluster) -> u64 {
        let found = self.image.space.refcount(cluster).await.unwrap_or(0);
        self.target(cluster.0, found)
    }
}
