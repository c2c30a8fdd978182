//! Refcounts of another width: a new refcount table with new blocks, behind everything else. The
//! header names them when they are durable, and says how wide they are in the same write; then the
//! old ones are freed.

use std::collections::BTreeSet;

use strata_exec::{mem::to_usize, yield_now};
use strata_storage::error::{IoError, IoResult, Result};

use crate::qcow2::{
    Qcow2,
    file::ImageFile,
    layout::{
        entry::refcount_block,
        geometry::{Geometry, HostCluster, HostRun, MAX_HOST_BITS, MAX_REFCOUNT_TABLE_BYTES},
        header_area::HeaderArea,
        width,
    },
};

/// Where the new blocks and the table lie, in clusters: side by side.
struct Place {
    first: u64,
    /// The indexes in the table that have a block.
    blocks: BTreeSet<u64>,
    table_clusters: u64,
}

/// The present refcounts, in ascending order.
struct Reader<'a> {
    image: &'a Qcow2,
    /// The block read last, and its index.
    block: Option<(u64, Option<Vec<u8>>)>,
}

impl Place {
    fn table(&self) -> u64 {
        self.first + self.blocks.len() as u64
    }

    fn end(&self) -> u64 {
        self.table() + self.table_clusters
    }

    /// Adds the blocks that count the blocks and the table themselves.
    fn settle(&mut self, new: &Geometry) -> std::result::Result<(), String> {
        let per_block = new.refcounts_per_block();
        loop {
            let end = self.end();
            let own = self.first / per_block..(end - 1) / per_block + 1;
            self.blocks.extend(own);
            let bytes = self.blocks.last().map_or(0, |last| (last + 1) * 8);
            if bytes > MAX_REFCOUNT_TABLE_BYTES || end > 1 << (MAX_HOST_BITS - new.cluster_bits) {
                return Err(format!("a refcount table of {bytes} bytes"));
            }
            self.table_clusters = new.clusters_for(bytes);
            if self.end() == end {
                return Ok(());
            }
        }
    }
}

impl Reader<'_> {
    /// The refcount of a cluster.
    async fn get(&mut self, cluster: u64) -> IoResult<u64> {
        let g = &self.image.geometry;
        let index = cluster / g.refcounts_per_block();
        if self.block.as_ref().is_none_or(|(found, _)| *found != index) {
            let raw = self.image.space.refcount_table_entry(to_usize(index));
            let block = refcount_block(raw, g).map_err(|why| self.image.file.corrupt(why))?;
            let bytes = match block {
                Some(block) => {
                    let offset = g.host_offset(block);
                    Some(
                        self.image
                            .file
                            .storage()
                            .read_vec(offset, g.cluster_len())
                            .await?,
                    )
                }
                None => None,
            };
            self.block = Some((index, bytes));
            yield_now().await;
        }
        let bytes = self.block.as_ref().and_then(|(_, bytes)| bytes.as_ref());
        let index = to_usize(cluster % g.refcounts_per_block());
        Ok(bytes.map_or(0, |bytes| width::get(bytes, g.refcount_order, index)))
    }
}

impl Qcow2 {
    /// Whether all refcounts fit a width of `1 << order` bits.
    ///
    /// # Errors
    /// One does not; the host's error.
    pub(super) async fn check_refcounts_fit(&self, order: u32) -> Result<()> {
        let mut reader = self.refcount_reader();
        for cluster in self.counted_clusters() {
            let refcount = reader.get(cluster).await?;
            if refcount > width::max(order) {
                let (bits, offset) = (1 << order, self.geometry.host_offset(HostCluster(cluster)));
                return Err(self.file.refused(format!(
                    "Cannot decrease refcount entry width to {bits} bits: Cluster at offset {offset:#x} has a refcount of {refcount}"
                )));
            }
        }
        Ok(())
    }

    /// Gives refcounts a width of `1 << order` bits; returns the clusters of the old structure,
    /// which are in use until [`Qcow2::free_refcounts`]. The image has to be opened anew before.
    ///
    /// # Errors
    /// The new structure would be too large; the host's error: the image has its old refcounts
    /// then.
    pub(super) async fn change_refcount_width(&self, order: u32) -> Result<Vec<HostRun>> {
        self.file.begin_write().await?;
        // Nothing is late, or on its way, from here on.
        self.close().await?;
        let old = self.refcount_clusters()?;
        let new = Geometry {
            refcount_order: order,
            ..self.geometry
        };
        let place = self.place_refcounts(&new).await?;
        let mut table = vec![0; to_usize(place.table_clusters << new.cluster_bits)];
        let mut reader = self.refcount_reader();
        for (n, &index) in (0..).zip(&place.blocks) {
            let offset = new.host_offset(HostCluster(place.first + n));
            let block = new_block(&mut reader, &new, &place, index).await?;
            self.file.storage().write_vec(offset, block).await?;
            let at = to_usize(index) * 8;
            table[at..at + 8].copy_from_slice(&offset.to_be_bytes());
        }
        let offset = new.host_offset(HostCluster(place.table()));
        self.file.storage().write_vec(offset, table).await?;
        let change = |area: &mut HeaderArea| {
            area.header.geometry.refcount_order = order;
            area.header.refcount_table_offset = offset;
            area.header.refcount_table_clusters =
                u32::try_from(place.table_clusters).expect("at most 8 MiB");
            Ok(())
        };
        // It flushes before.
        self.order
            .change_area(change, ImageFile::stop_after)
            .await?;
        Ok(old)
    }

    /// Frees what an image that has been opened anew does not use any more.
    pub(super) async fn free_refcounts(&self, old: &[HostRun]) -> Result<()> {
        self.file.begin_write().await?;
        for run in old {
            self.space.drop_references(*run).await?;
        }
        self.close().await
    }

    fn refcount_reader(&self) -> Reader<'_> {
        Reader {
            image: self,
            block: None,
        }
    }

    /// The clusters that have refcounts, blocks of them that there are not left out.
    fn counted_clusters(&self) -> impl Iterator<Item = u64> {
        let per_block = self.geometry.refcounts_per_block();
        let table = self.space.refcount_table().into_iter();
        (0..)
            .zip(table)
            .filter(|(_, raw)| *raw != 0)
            .flat_map(move |(index, _): (u64, u64)| index * per_block..(index + 1) * per_block)
    }

    /// The clusters of the refcount table and its blocks.
    fn refcount_clusters(&self) -> IoResult<Vec<HostRun>> {
        let g = &self.geometry;
        let header = self.file.header();
        let mut runs = vec![HostRun {
            first: g.host_cluster(header.refcount_table_offset),
            count: u64::from(header.refcount_table_clusters),
        }];
        for raw in self.space.refcount_table() {
            let block = refcount_block(raw, g).map_err(|why| self.file.corrupt(why))?;
            runs.extend(block.map(HostRun::one));
        }
        Ok(runs)
    }

    /// Finds out which blocks are needed, and where all lies.
    async fn place_refcounts(&self, new: &Geometry) -> Result<Place> {
        let mut place = Place {
            first: new.clusters_for(self.file.storage().len()),
            blocks: BTreeSet::new(),
            table_clusters: 1,
        };
        let mut reader = self.refcount_reader();
        for cluster in self.counted_clusters() {
            if reader.get(cluster).await? > 0 {
                place.first = place.first.max(cluster + 1);
                place.blocks.insert(cluster / new.refcounts_per_block());
            }
        }
        let settled = place.settle(new);
        settled.map_err(|what| IoError::Unsupported {
            file: self.file.storage().path().to_owned(),
            what,
        })?;
        Ok(place)
    }
}

/// The bytes of the block at `index` of the new table.
async fn new_block(
    reader: &mut Reader<'_>,
    new: &Geometry,
    place: &Place,
    index: u64,
) -> IoResult<Vec<u8>> {
    let mut block = vec![0; new.cluster_len()];
    for n in 0..new.refcounts_per_block() {
        let cluster = index * new.refcounts_per_block() + n;
        let refcount = if (place.first..place.end()).contains(&cluster) {
            1
        } else {
            reader.get(cluster).await?
        };
        width::set(&mut block, new.refcount_order, to_usize(n), refcount);
    }
    Ok(block)
}
