//! The refcount blocks themselves, and comparing refcounts with the references counted.

use super::Check;
use crate::{
    error::IoResult,
    exec::yield_now,
    qcow2::{open::refcount_block, width},
};

impl Check<'_> {
    /// Counts the references of the refcount table.
    pub(super) async fn count_refcount_blocks(&mut self) -> IoResult<()> {
        let g = self.image.geometry;
        for (index, raw) in self.image.refcounts.table.entries().into_iter().enumerate() {
            if raw == 0 {
                continue;
            }
            if raw & 0x1ff != 0 {
                self.report.corruption(format!(
                    "ERROR refcount table entry {index} has reserved bits set"
                ));
            } else if g.in_cluster(raw) != 0 {
                self.report.corruption(format!(
                    "ERROR refcount block {index} is not cluster aligned; refcount table entry corrupted"
                ));
            } else if raw >= self.image.file.len() {
                self.report
                    .corruption(format!("ERROR refcount block {index} is outside image"));
            } else {
                self.count(raw, g.cluster_size());
                let count = self.counts.get(g.host_cluster(raw).0);
                if self.counts.covers(g.host_cluster(raw).0) && count != 1 {
                    self.report
                        .corruption(format!("ERROR refcount block {index} refcount={count}"));
                }
            }
        }
        Ok(())
    }

    /// Compares every refcount with the references counted.
    pub(super) async fn compare(&mut self) -> IoResult<()> {
        let per_block = self.image.geometry.refcounts_per_block();
        let table = self.image.refcounts.table.entries();
        for (index, raw) in table.iter().enumerate() {
            let start = index as u64 * per_block;
            match self.block(*raw).await {
                Some(block) => self.compare_block(start, &block),
                None => self.compare_uncounted(start, start.saturating_add(per_block)),
            }
            yield_now().await;
        }
        self.compare_uncounted(table.len() as u64 * per_block, u64::MAX);
        Ok(())
    }

    /// Reads a refcount block, if the table's entry is one that can be followed.
    async fn block(&mut self, raw: u64) -> Option<Vec<u8>> {
        let g = self.image.geometry;
        let block = refcount_block(raw, &g).ok()??;
        let offset = g.host_offset(block);
        if offset >= self.image.file.len() {
            return None;
        }
        match self.image.file.read_vec(offset, g.cluster_len()).await {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.report.check_errors += 1;
                self.report.line(format!("ERROR: {error}"));
                None
            }
        }
    }

    /// Compares a whole block. Refcounts of clusters behind the end of the file that nothing
    /// refers to are of no interest.
    fn compare_block(&mut self, start: u64, block: &[u8]) {
        let g = self.image.geometry;
        let inside = g.clusters_for(self.image.file.len());
        for index in 0..g.refcounts_per_block() {
            let cluster = start + index;
            let refcount = width::get(block, g.refcount_order, index as usize);
            let references = self.counts.get(cluster);
            if cluster < inside || references > 0 {
                self.judge(cluster, refcount, references);
            }
        }
    }

    /// Clusters that no refcount block counts.
    fn compare_uncounted(&mut self, start: u64, end: u64) {
        let clusters: Vec<u64> = self.counts.counted(start, end).collect();
        for cluster in clusters {
            self.judge(cluster, 0, self.counts.get(cluster));
        }
    }

    fn judge(&mut self, cluster: u64, refcount: u64, references: u64) {
        if refcount > 0 || references > 0 {
            let end = (cluster + 1) * self.image.geometry.cluster_size();
            self.report.image_end_offset = self.report.image_end_offset.max(end);
        }
        if refcount < references {
            self.report.corruption(format!(
                "ERROR cluster {cluster} refcount={refcount} reference={references}"
            ));
        } else if refcount > references {
            self.report.leaks += 1;
            self.report.line(format!(
                "Leaked cluster {cluster} refcount={refcount} reference={references}"
            ));
        }
    }
}
