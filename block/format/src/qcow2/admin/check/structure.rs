//! New refcount blocks and a new refcount table, behind everything else in the file, for images
//! whose old ones cannot be used. The header names them once they are durable; until then the old
//! ones are as they were.

use std::collections::BTreeSet;
use strata_exec::mem::to_usize;

use strata_storage::error::{IoError, IoResult};

use super::Check;
use crate::qcow2::layout::{
    geometry::{HostCluster, MAX_HOST_BITS, MAX_REFCOUNT_TABLE_BYTES},
    width,
};

/// Where the new blocks and the table lie, in clusters: side by side.
struct Place {
    first: u64,
    /// The indexes in the table that have a block.
    blocks: BTreeSet<u64>,
    table_clusters: u64,
}

impl Place {
    fn table(&self) -> u64 {
        self.first + self.blocks.len() as u64
    }

    fn end(&self) -> u64 {
        self.table() + self.table_clusters
    }
}

impl Check<'_> {
    /// Counts everything but the old structure, writes a new one, and has the header name it.
    /// `of_refcounts` of the corruptions found are gone then, and the leaks.
    pub(super) async fn replace_structure(&mut self, of_refcounts: u64) -> IoResult<()> {
        self.report.line("Rebuilding refcount structure".to_owned());
        let mut fresh = Check::new(self.image, 0..u64::MAX);
        fresh.count_mapping().await?;
        self.counts = fresh.counts;
        self.tables = fresh.tables;
        let place = self.place().await?;
        self.write_structure(&place).await?;
        for cluster in place.first..place.end() {
            self.counts.add(cluster);
        }
        self.report.corruptions -= of_refcounts;
        self.report.corruptions_fixed += of_refcounts;
        if !self.lost_tables {
            self.report.leaks_fixed += std::mem::take(&mut self.report.leaks);
        }
        Ok(())
    }

    /// Finds out which blocks are needed.
    async fn place(&mut self) -> IoResult<Place> {
        let g = self.image.geometry;
        let per_block = g.refcounts_per_block();
        let last = self.counts.counted(0, u64::MAX).last();
        let file_end = g.clusters_for(self.image.file.storage().len());
        let first = file_end.max(last.map_or(0, |cluster| cluster + 1));
        let mut place = Place {
            first,
            blocks: self
                .counts
                .counted(0, first)
                .map(|cluster| cluster / per_block)
                .collect(),
            table_clusters: 1,
        };
        // Leaks that are kept.
        let table = self.image.space.refcount_table();
        for (index, _) in (0..).zip(table).filter(|(_, raw)| *raw != 0) {
            let block = self.new_block(&place, index).await?;
            if block.iter().any(|byte| *byte != 0) {
                place.blocks.insert(index);
            }
        }
        // The blocks count themselves, too.
        loop {
            let end = place.end();
            let wanted = first / per_block..(end - 1) / per_block + 1;
            let bytes = wanted.end.max(place.blocks.last().map_or(0, |n| n + 1)) * 8;
            if bytes > MAX_REFCOUNT_TABLE_BYTES || end > 1 << (MAX_HOST_BITS - g.cluster_bits) {
                return Err(IoError::Unsupported {
                    file: self.image.file.storage().path().to_owned(),
                    what: format!("a refcount table of {bytes} bytes"),
                });
            }
            place.table_clusters = g.clusters_for(bytes);
            place.blocks.extend(wanted);
            if place.end() == end {
                return Ok(place);
            }
        }
    }

    /// The bytes of the block at `index` of the new table.
    async fn new_block(&mut self, place: &Place, index: u64) -> IoResult<Vec<u8>> {
        let g = self.image.geometry;
        let raw = self.image.space.refcount_table_entry(to_usize(index));
        let old = self.block(raw).await;
        let mut block = vec![0; g.cluster_len()];
        for n in 0..g.refcounts_per_block() {
            let cluster = index * g.refcounts_per_block() + n;
            let new = (place.first..place.end()).contains(&cluster);
            let refcount = match &old {
                Some(old) if cluster < place.first => {
                    width::get(old, g.refcount_order, to_usize(n))
                }
                _ => 0,
            };
            let target = if new {
                1
            } else {
                self.target(cluster, refcount)
            };
            width::set(&mut block, g.refcount_order, to_usize(n), target);
        }
        Ok(block)
    }

    async fn write_structure(&mut self, place: &Place) -> IoResult<()> {
        let g = self.image.geometry;
        let file = self.image.file.storage();
        let table_bytes = place.table_clusters << g.cluster_bits;
        let mut table = vec![0; to_usize(table_bytes)];
        for (n, &index) in place.blocks.iter().enumerate() {
            let offset = g.host_offset(HostCluster(place.first + n as u64));
            let block = self.new_block(place, index).await?;
            file.write_vec(offset, block).await?;
            let at = to_usize(index) * 8;
            table[at..at + 8].copy_from_slice(&offset.to_be_bytes());
        }
        let offset = g.host_offset(HostCluster(place.table()));
        file.write_vec(offset, table).await?;
        file.flush().await?;
        let mut header = self.image.file.header();
        header.refcount_table_offset = offset;
        header.refcount_table_clusters =
            u32::try_from(place.table_clusters).expect("at most 8 MiB");
        self.image.file.repair_header(header).await
    }
}
