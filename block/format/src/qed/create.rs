//! Making a new image: a header and an empty L1 table.

use strata_storage::{
    Storage,
    error::{Error, Result},
};

use super::header::{Features, Header};
use crate::{backing::Backing, size};

/// How an image is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateOptions {
    /// Bytes of the virtual disk; rounded up to 512.
    pub size: u64,
    /// Bytes in a cluster: a power of two, 4096 to 64 MiB.
    pub cluster_size: u64,
    /// Clusters in a table: a power of two, 1 to 16.
    pub table_clusters: u64,
    /// The backing file to name. It is not looked at.
    pub backing: Option<Backing>,
}

impl Default for CreateOptions {
    /// QEMU's choices, for a disk without bytes.
    fn default() -> Self {
        Self {
            size: 0,
            cluster_size: 65536,
            table_clusters: 4,
            backing: None,
        }
    }
}

/// Makes an image in `file`, whose content is lost unless the options are refused. The caller
/// flushes.
///
/// # Errors
/// Options that do not go together, or the host's error.
pub async fn create(file: Storage, options: CreateOptions) -> Result<()> {
    let refused = |why| Error::Image {
        file: file.path().to_owned(),
        why,
    };
    let size = size::in_sectors(options.size).map_err(refused)?;
    let mut header = Header {
        cluster_size: options.cluster_size,
        table_clusters: options.table_clusters,
        header_clusters: 1,
        features: Features::empty(),
        compatible: 0,
        autoclear: 0,
        l1_offset: options.cluster_size,
        image_size: 0,
        name: (0, 0),
    };
    header.check().map_err(refused)?;
    if size > header.max_size() {
        return Err(refused(format!(
            "a disk of {size} bytes is too large for clusters of {} bytes and tables of {} (at most {} bytes)",
            options.cluster_size,
            options.table_clusters,
            header.max_size(),
        )));
    }
    header.image_size = size;
    let layout = header
        .set_backing(options.backing.as_ref())
        .map_err(refused)?;
    if file.has_fixed_len() {
        return Err(refused(
            "is no regular file, and QED images can only grow at the end of one: make a qcow2 image there"
                .to_owned(),
        ));
    }
    // The table is a hole, which reads as zeros: nothing is allocated.
    file.start_over(header.l1_offset + header.table_bytes())
        .await?;
    if let Some((offset, name)) = layout.tail {
        file.write_vec(offset, name).await?;
    }
    file.write_vec(0, layout.head).await?;
    Ok(())
}
