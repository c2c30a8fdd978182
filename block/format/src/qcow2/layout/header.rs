//! The image header (specification, "Header").

use bitflags::bitflags;

use crate::qcow2::layout::geometry::{
    Geometry, MAX_CLUSTER_BITS, MAX_L1_BYTES, MAX_REFCOUNT_TABLE_BYTES, MAX_SNAPSHOTS,
    MIN_CLUSTER_BITS, MIN_EXTENDED_CLUSTER_BITS,
};

/// The first four bytes of every image.
pub const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Header length of version 2.
pub const V2_LEN: u32 = 72;
/// Header length of version 3 without additional fields.
const V3_MIN_LEN: u32 = 104;
/// Header length that new images get: with the compression type and its padding.
const V3_LEN: u32 = 112;
/// Where the compression type lies.
const COMPRESSION_TYPE: usize = 104;
/// Bytes that have to be read before the cluster size is known.
pub const PROBE_LEN: usize = 72;
/// Longest backing file name in bytes.
pub const MAX_BACKING_NAME: usize = 1023;

bitflags! {
    /// Features without which an image cannot be read right.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Incompatible: u64 {
        /// The refcounts may be stale.
        const DIRTY = 1;
        /// The metadata is known to be damaged.
        const CORRUPT = 2;
        /// Guest data lies in another file.
        const DATA_FILE = 4;
        /// Compression is not deflate.
        const COMPRESSION = 8;
        /// L2 entries have 128 bits and subclusters.
        const EXTENDED_L2 = 16;
    }
}

/// Compatible feature: refcount updates may be postponed.
pub const LAZY_REFCOUNTS: u64 = 1;

/// Autoclear feature: the persistent bitmaps are up to date.
pub const AUTOCLEAR_BITMAPS: u64 = 1;

/// Autoclear feature: the external data file is an image of the disk in itself.
pub const AUTOCLEAR_RAW_DATA: u64 = 2;

/// The header's fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Offset and length of the backing file's name.
    pub backing: Option<(u64, u32)>,
    /// Version, cluster size and refcount width.
    pub geometry: Geometry,
    /// Bytes of the virtual disk.
    pub size: u64,
    /// 0 none, 1 AES, 2 LUKS.
    pub crypt_method: u32,
    /// Entries in the active L1 table.
    pub l1_size: u32,
    /// Where the active L1 table starts.
    pub l1_offset: u64,
    /// Where the refcount table starts.
    pub refcount_table_offset: u64,
    /// Clusters of the refcount table.
    pub refcount_table_clusters: u32,
    /// Internal snapshots.
    pub snapshots: u32,
    /// Where their table starts.
    pub snapshots_offset: u64,
    /// Incompatible features; unknown bits are kept.
    pub incompatible: Incompatible,
    /// Compatible features.
    pub compatible: u64,
    /// Autoclear features.
    pub autoclear: u64,
    /// The fields behind `header_length`, as they were read.
    pub additional: Vec<u8>,
}

impl Header {
    /// Whether guest data lies in an external data file that is an image of the disk in itself.
    pub fn has_raw_data(&self) -> bool {
        self.geometry.external_data && self.autoclear & AUTOCLEAR_RAW_DATA != 0
    }

    /// The autoclear bit of a raw external data file, which may stay set: what it says goes on
    /// being true.
    pub fn raw_data_bit(&self) -> u64 {
        if self.has_raw_data() {
            AUTOCLEAR_RAW_DATA
        } else {
            0
        }
    }

    /// A header for a new image of `size` bytes without tables.
    pub fn new(geometry: Geometry, size: u64) -> Self {
        let additional = if geometry.version == 2 {
            0
        } else {
            V3_LEN - V3_MIN_LEN
        };
        let mut incompatible = Incompatible::empty();
        incompatible.set(Incompatible::EXTENDED_L2, geometry.extended_l2);
        Self {
            backing: None,
            geometry,
            size,
            crypt_method: 0,
            l1_size: 0,
            l1_offset: 0,
            refcount_table_offset: 0,
            refcount_table_clusters: 0,
            snapshots: 0,
            snapshots_offset: 0,
            incompatible,
            compatible: 0,
            autoclear: 0,
            additional: vec![0; additional as usize],
        }
    }

    /// log2 of the cluster size, from the first [`PROBE_LEN`] bytes of a file.
    ///
    /// # Errors
    /// That these bytes do not start a qcow2 image, or not one that can be read.
    pub fn probe(bytes: &[u8]) -> Result<u32, String> {
        if bytes.len() < PROBE_LEN || bytes[..4] != MAGIC {
            return Err("is not a qcow2 image".into());
        }
        let version = be32(bytes, 4);
        if !(2..=3).contains(&version) {
            return Err(format!("qcow2 version {version} is not supported"));
        }
        let bits = be32(bytes, 20);
        if !(MIN_CLUSTER_BITS..=MAX_CLUSTER_BITS).contains(&bits) {
            return Err(format!(
                "cluster size 2^{bits} is not supported: it must be between 512 bytes and 2 MiB"
            ));
        }
        Ok(bits)
    }

    /// Reads the header from the first cluster of a file.
    ///
    /// # Errors
    /// What makes it unreadable. Features and table positions are not judged here: see
    /// [`Header::check_tables`].
    pub fn parse(cluster: &[u8]) -> Result<Self, String> {
        let cluster_bits = Self::probe(cluster)?;
        let version = be32(cluster, 4);
        let (refcount_order, len) = if version == 2 {
            (4, V2_LEN)
        } else if cluster.len() < V3_MIN_LEN as usize {
            return Err("the header is cut off".into());
        } else {
            (be32(cluster, 96), be32(cluster, 100))
        };
        let shortest = if version == 2 { V2_LEN } else { V3_MIN_LEN };
        if len < shortest || !len.is_multiple_of(8) || len as usize > cluster.len() {
            return Err(format!(
                "header length {len} is not valid; the header is corrupt or cut off"
            ));
        }
        if refcount_order > 6 {
            return Err(format!(
                "refcount width 2^{refcount_order} bits is not valid"
            ));
        }
        let v3 = |at| if version == 2 { 0 } else { be64(cluster, at) };
        let incompatible = Incompatible::from_bits_retain(v3(72));
        let extended_l2 = incompatible.contains(Incompatible::EXTENDED_L2);
        if extended_l2 && cluster_bits < MIN_EXTENDED_CLUSTER_BITS {
            return Err(format!(
                "clusters of 2^{cluster_bits} bytes are too small for extended L2 entries: they need 16 KiB at least"
            ));
        }
        let name = (be64(cluster, 8), be32(cluster, 16));
        let incompatible = Incompatible::from_bits_retain(v3(72));
        Ok(Self {
            backing: (name.0 != 0).then_some(name),
            geometry: Geometry {
                version,
                cluster_bits,
                extended_l2,
                refcount_order,
                external_data: incompatible.contains(Incompatible::DATA_FILE),
            },
            size: be64(cluster, 24),
            crypt_method: be32(cluster, 32),
            l1_size: be32(cluster, 36),
            l1_offset: be64(cluster, 40),
            refcount_table_offset: be64(cluster, 48),
            refcount_table_clusters: be32(cluster, 56),
            snapshots: be32(cluster, 60),
            snapshots_offset: be64(cluster, 64),
            incompatible,
            compatible: v3(80),
            autoclear: v3(88),
            additional: cluster[V3_MIN_LEN.min(len) as usize..len as usize].to_vec(),
        })
    }

    /// Makes it a header of version 2 or 3. In version 2 there are no features.
    pub fn set_version(&mut self, version: u32) {
        self.geometry.version = version;
        self.additional.clear();
        if version == 2 {
            self.incompatible = Incompatible::empty();
            self.compatible = 0;
            self.autoclear = 0;
        } else {
            self.additional.resize((V3_LEN - V3_MIN_LEN) as usize, 0);
        }
    }

    /// Bytes of the header, without extensions.
    pub fn len(&self) -> usize {
        if self.geometry.version == 2 {
            V2_LEN as usize
        } else {
            V3_MIN_LEN as usize + self.additional.len()
        }
    }

    /// Compression type: 0 deflate, 1 zstd.
    pub fn compression_type(&self) -> u8 {
        self.additional
            .get(COMPRESSION_TYPE - V3_MIN_LEN as usize)
            .copied()
            .unwrap_or(0)
    }

    /// Says that clusters are compressed with zstd. The header is one of version 3, as new ones
    /// are.
    pub fn set_zstd(&mut self) {
        self.incompatible |= Incompatible::COMPRESSION;
        self.additional[COMPRESSION_TYPE - V3_MIN_LEN as usize] = 1;
    }

    /// Bytes of the refcount table.
    pub fn refcount_table_bytes(&self) -> u64 {
        u64::from(self.refcount_table_clusters) << self.geometry.cluster_bits
    }

    /// The header as it lies in the file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let (offset, len) = self.backing.unwrap_or((0, 0));
        let mut out = Vec::with_capacity(self.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.geometry.version.to_be_bytes());
        out.extend_from_slice(&offset.to_be_bytes());
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(&self.geometry.cluster_bits.to_be_bytes());
        out.extend_from_slice(&self.size.to_be_bytes());
        out.extend_from_slice(&self.crypt_method.to_be_bytes());
        out.extend_from_slice(&self.l1_size.to_be_bytes());
        out.extend_from_slice(&self.l1_offset.to_be_bytes());
        out.extend_from_slice(&self.refcount_table_offset.to_be_bytes());
        out.extend_from_slice(&self.refcount_table_clusters.to_be_bytes());
        out.extend_from_slice(&self.snapshots.to_be_bytes());
        out.extend_from_slice(&self.snapshots_offset.to_be_bytes());
        if self.geometry.version > 2 {
            out.extend_from_slice(&self.incompatible.bits().to_be_bytes());
            out.extend_from_slice(&self.compatible.to_be_bytes());
            out.extend_from_slice(&self.autoclear.to_be_bytes());
            out.extend_from_slice(&self.geometry.refcount_order.to_be_bytes());
            let len = u32::try_from(self.len()).expect("within the first cluster");
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(&self.additional);
        }
        out
    }

    /// Checks sizes and positions of the tables that the header names, against the limits and
    /// against a file of `file_len` bytes.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check_tables(&self, file_len: u64) -> Result<(), String> {
        self.check_l1(file_len)?;
        self.check_refcount_table(file_len)?;
        self.check_snapshot_table(file_len)
    }

    /// As [`Header::check_tables`], for the L1 table: without it there is no image.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_l1(&self, file_len: u64) -> Result<(), String> {
        let g = &self.geometry;
        let l1_bytes = u64::from(self.l1_size) * 8;
        if l1_bytes > MAX_L1_BYTES {
            return Err(format!("the L1 table of {l1_bytes} bytes is too large"));
        }
        if self.size > g.max_size() {
            return Err("Image is too big".into());
        }
        if u64::from(self.l1_size) < g.l1_entries(self.size) {
            return Err(format!(
                "the L1 table of {} entries is too small for a disk of {} bytes",
                self.l1_size, self.size
            ));
        }
        if self.l1_size > 0 {
            self.check_place("L1 table", self.l1_offset, l1_bytes, file_len)?;
        }
        Ok(())
    }

    /// As [`Header::check_tables`], for the refcount table.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_refcount_table(&self, file_len: u64) -> Result<(), String> {
        let g = &self.geometry;
        let table_bytes = self.refcount_table_bytes();
        if table_bytes == 0 {
            return Err("the image has no refcount table".into());
        }
        if table_bytes > MAX_REFCOUNT_TABLE_BYTES {
            return Err(format!(
                "the refcount table of {table_bytes} bytes is too large"
            ));
        }
        self.check_place(
            "refcount table",
            self.refcount_table_offset,
            table_bytes,
            g.clusters_for(file_len) << g.cluster_bits,
        )
    }

    /// As [`Header::check_tables`], for the table of internal snapshots.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_snapshot_table(&self, file_len: u64) -> Result<(), String> {
        if self.snapshots > MAX_SNAPSHOTS {
            return Err(format!(
                "{} internal snapshots are too many",
                self.snapshots
            ));
        }
        self.check_snapshot_place(file_len)
    }

    /// As [`Header::check_snapshot_table`], but for the number of snapshots.
    ///
    /// # Errors
    /// The table cannot be where the header says.
    pub fn check_snapshot_place(&self, file_len: u64) -> Result<(), String> {
        if self.snapshots == 0 {
            return Ok(());
        }
        self.check_place("snapshot table", self.snapshots_offset, 1, file_len)
    }

    fn check_place(&self, what: &str, offset: u64, len: u64, file_len: u64) -> Result<(), String> {
        if self.geometry.in_cluster(offset) != 0 {
            return Err(format!("the {what} at {offset:#x} is not cluster-aligned"));
        }
        if offset < self.geometry.cluster_size() {
            return Err(format!("the {what} at {offset:#x} overlaps the header"));
        }
        if offset.checked_add(len).is_none_or(|end| end > file_len) {
            return Err(format!("the {what} at {offset:#x} lies outside the file"));
        }
        Ok(())
    }
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4]
        .iter()
        .fold(0, |value, &byte| value << 8 | u32::from(byte))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

#[cfg(test)]
mod tests;
