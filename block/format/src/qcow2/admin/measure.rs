//! How large an image will get, before it is made.

use crate::qcow2::{CreateOptions, Preallocation, Qcow2, layout::geometry::Geometry};

/// Bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// With the data that there is, and room for the tables of all the data that there may be.
    pub required: u64,
    /// With every cluster written.
    pub fully_allocated: u64,
}

/// Measures the file of an image that is made with `options`, which may ask for room for all
/// clusters, and then gets `data` bytes of content, in whole clusters.
///
/// # Errors
/// What is wrong with the options.
pub fn measure(options: &CreateOptions, data: u64) -> Result<Measured, String> {
    let sizeless = CreateOptions {
        size: 0,
        ..options.clone()
    };
    let (g, _) = sizeless.geometry()?;
    if options.size > g.max_size() {
        return Err("The image size is too large (try using a larger cluster size)".into());
    }
    let disk = g.clusters_for(options.size) * g.cluster_size();
    let fully_allocated = (table_clusters(&g, options.size) << g.cluster_bits) + disk;
    let data = match options.preallocation {
        Preallocation::Off | Preallocation::Metadata => data,
        Preallocation::Falloc | Preallocation::Full => disk,
    };
    Ok(Measured {
        required: fully_allocated - disk + data,
        fully_allocated,
    })
}

/// Clusters of the header and of all tables, with every cluster of the disk in use.
fn table_clusters(g: &Geometry, size: u64) -> u64 {
    let l2 = g.l1_entries(size);
    let l1 = g.clusters_for(l2 * 8);
    let counted = 1 + l1 + l2 + g.clusters_for(size);
    // Blocks and their table are counted, too.
    let (mut table, mut blocks) = (0, 0);
    loop {
        let all = counted + table + blocks;
        let wanted = all.div_ceil(g.refcounts_per_block());
        let wanted = (g.clusters_for(wanted * 8), wanted);
        if wanted == (table, blocks) {
            return 1 + l1 + l2 + table + blocks;
        }
        (table, blocks) = wanted;
    }
}

impl Qcow2 {
    /// Bytes that the persistent bitmaps of this image take, with every bit in use, in one with
    /// clusters of `cluster_size` bytes; `None` if the version of the format has no bitmaps.
    pub fn measure_bitmaps(&self, cluster_size: u64) -> Option<u64> {
        if self.version() < 3 {
            return None;
        }
        let whole = |bytes: u64| bytes.next_multiple_of(cluster_size);
        let (mut bytes, mut directory) = (0, 0);
        for bitmap in self.bitmaps().list() {
            if !bitmap.is_persistent() || bitmap.is_inconsistent() {
                continue;
            }
            let bits = bitmap.size().div_ceil(bitmap.granularity());
            let content = whole(bits.div_ceil(8));
            bytes += content + whole(content / cluster_size * 8);
            // An entry without extra data: 24 bytes and the name.
            directory += (24 + bitmap.name().len() as u64).next_multiple_of(8);
        }
        Some(bytes + whole(directory))
    }
}
