//! The refcount blocks themselves, and comparing refcounts with the references counted.

use strata_exec::{mem::to_usize, yield_now};
use strata_storage::error::IoResult;

use super::Check;
use crate::qcow2::layout::{entry::refcount_block, width};

impl Check<'_> {
    /// Counts the refcount table, and the blocks that it names.
    pub(super) fn count_refcounts(&mut self) {
        if let Some(why) = &self.image.lost_refcounts {
            // Every cluster in use is going to be counted as one without a refcount.
            self.report.line(format!("ERROR {why}"));
            self.needs_refcounts = true;
            self.needs_structure = true;
            return;
        }
        let entries = self.image.space.refcount_table();
        let offset = self.image.space.refcount_table_offset();
        self.count(offset, entries.len() as u64 * 8);
        for (index, raw) in entries.into_iter().enumerate() {
            if raw == 0 {
                continue;
            }
            if let Some(what) = self.count_block(index, raw) {
                self.report.corruption(format!("ERROR {what}"));
                self.needs_structure = true;
            }
        }
    }

    /// Counts one block; says what is wrong with it.
    fn count_block(&mut self, index: usize, raw: u64) -> Option<String> {
        let g = self.image.geometry;
        let cluster = g.host_cluster(raw).0;
        let outside = raw >= self.image.file.storage().len();
        let what = if raw & 0x1ff != 0 {
            format!("refcount table entry {index} has reserved bits set")
        } else if g.in_cluster(raw) != 0 {
            format!("refcount block {index} is not cluster aligned; refcount table entry corrupted")
        } else if outside {
            return Some(format!("refcount block {index} is outside image"));
        } else {
            self.count(raw, g.cluster_size());
            let count = self.counts.get(cluster);
            if !self.counts.covers(cluster) || count == 1 {
                return None;
            }
            format!("refcount block {index} refcount={count}")
        };
        self.needs_refcounts = true;
        Some(what)
    }

    /// Compares every refcount with the references counted.
    pub(super) async fn compare(&mut self) -> IoResult<()> {
        let per_block = self.image.geometry.refcounts_per_block();
        let table = self.image.space.refcount_table();
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
    pub(super) async fn block(&mut self, raw: u64) -> Option<Vec<u8>> {
        let g = self.image.geometry;
        let block = refcount_block(raw, &g).ok()??;
        let offset = g.host_offset(block);
        if offset >= self.image.file.storage().len() {
            return None;
        }
        match self
            .image
            .file
            .storage()
            .read_vec(offset, g.cluster_len())
            .await
        {
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
        let inside = g.clusters_for(self.image.file.storage().len());
        for index in 0..g.refcounts_per_block() {
            let cluster = start + index;
            let refcount = width::get(block, g.refcount_order, to_usize(index));
            let references = self.counts.get(cluster);
            if cluster < inside || references > 0 {
                self.judge(cluster, refcount, references);
            }
        }
    }

    /// Clusters that no refcount block counts.
    fn compare_uncounted(&mut self, start: u64, end: u64) {
        let clusters: Vec<u64> = self.counts.counted(start, end).collect();
        self.needs_structure |= !clusters.is_empty();
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
            self.needs_refcounts |= refcount == 0;
            let mut what =
                format!("ERROR cluster {cluster} refcount={refcount} reference={references}");
            let order = self.image.geometry.refcount_order;
            if references > width::max(order) {
                // No repair can count it; with wider refcounts the next one can.
                what += &format!(
                    " (refcounts of {} bits are too narrow: use 'strata-img amend -o refcount_bits={}' \
                     first)",
                    1 << order,
                    (1u64 << order).max(8) * 2
                );
            }
            self.report.corruption(what);
        } else if refcount > references {
            self.report.leaks += 1;
            self.report.line(format!(
                "Leaked cluster {cluster} refcount={refcount} reference={references}"
            ));
        }
    }
}
