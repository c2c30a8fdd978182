//! Sizes and positions of one image: how a guest offset is cut into table indexes.
//!
//! Positions have types of their own, so that a cluster of the file is never taken for a cluster of
//! the virtual disk.

/// Smallest cluster that the format allows: 512 bytes.
pub const MIN_CLUSTER_BITS: u32 = 9;
/// Largest cluster that the reference system reads: 2 MiB.
pub const MAX_CLUSTER_BITS: u32 = 21;
/// Largest L1 table in bytes.
pub const MAX_L1_BYTES: u64 = 32 << 20;
/// Largest refcount table in bytes.
pub const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// Most internal snapshots.
pub const MAX_SNAPSHOTS: u32 = 65536;
/// Host offsets have 56 bits (bits 0 to 55 of a table entry).
pub const MAX_HOST_BITS: u32 = 56;
/// Smallest cluster that extended L2 entries allow: 16 KiB.
pub const MIN_EXTENDED_CLUSTER_BITS: u32 = 14;
/// Bytes of a table that are cached, and written back, as one piece.
const SLICE_BYTES: u64 = 4096;
/// log2 of the number of subclusters of a cluster, with extended L2 entries.
const SUBCLUSTER_BITS: u32 = 5;

/// Index of a cluster of the image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostCluster(pub u64);

/// Index of a cluster of the virtual disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestCluster(pub u64);

/// Adjacent clusters of the image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostRun {
    /// The first cluster.
    pub first: HostCluster,
    /// Number of clusters.
    pub count: u64,
}

impl HostCluster {
    /// The cluster `n` further on.
    pub fn plus(self, n: u64) -> Self {
        Self(self.0 + n)
    }
}

impl GuestCluster {
    /// The cluster `n` further on.
    pub fn plus(self, n: u64) -> Self {
        Self(self.0 + n)
    }
}

impl HostRun {
    /// One cluster.
    pub fn one(first: HostCluster) -> Self {
        Self { first, count: 1 }
    }

    /// The first cluster behind the run.
    pub fn end(self) -> HostCluster {
        self.first.plus(self.count)
    }
}

/// Sizes of one image. Cluster bits lie in `9..=21`, with extended L2 entries in `14..=21`, and the
/// refcount order in `0..=6`: the caller that makes one has checked that.
///
/// A cluster has subclusters: 32 with extended L2 entries, otherwise one, which is the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Version of the format: 2 or 3.
    pub version: u32,
    /// log2 of the cluster size.
    pub cluster_bits: u32,
    /// L2 entries have 128 bits, and describe the subclusters of a cluster.
    pub extended_l2: bool,
    /// log2 of the width of a refcount in bits.
    pub refcount_order: u32,
    /// Guest data lies in a file of its own, at the offsets that it has on the virtual disk.
    pub external_data: bool,
}

impl Geometry {
    /// Bytes in a cluster.
    pub fn cluster_size(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes in a cluster, for buffers. At most 2 MiB.
    pub fn cluster_len(&self) -> usize {
        1 << self.cluster_bits
    }

    /// Subclusters in a cluster: 1 or 32.
    pub fn subclusters(&self) -> u32 {
        if self.extended_l2 {
            1 << SUBCLUSTER_BITS
        } else {
            1
        }
    }

    /// Bytes in a subcluster.
    pub fn subcluster_size(&self) -> u64 {
        self.cluster_size() / u64::from(self.subclusters())
    }

    /// Index of the subcluster that `offset` lies in, within its cluster.
    pub fn subcluster(&self, offset: u64) -> u32 {
        let index = self.in_cluster(offset) / self.subcluster_size();
        u32::try_from(index).expect("below 32")
    }

    /// Those subclusters of a guest cluster that the bytes from `start` to before `end` touch. Bit
    /// n is subcluster n.
    pub fn touched(&self, cluster: GuestCluster, start: u64, end: u64) -> u32 {
        let base = self.guest_offset(cluster);
        let size = self.subcluster_size();
        // At most 32: the cluster is cut off on both sides.
        let first = (start.clamp(base, base + self.cluster_size()) - base) / size;
        let behind = (end.clamp(base, base + self.cluster_size()) - base).div_ceil(size);
        let below = |n: u64| (1u64 << n) - 1;
        u32::try_from(below(behind) & !below(first)).expect("32 subclusters at most")
    }

    /// Bytes of an L2 entry.
    pub fn l2_entry_bytes(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Entries in an L2 table.
    pub fn l2_entries(&self) -> u64 {
        self.cluster_size() / self.l2_entry_bytes()
    }

    /// Bytes of the virtual disk that one L2 table maps.
    pub fn l2_coverage(&self) -> u64 {
        self.l2_entries() * self.cluster_size()
    }

    /// L1 entries that a disk of `size` bytes needs.
    pub fn l1_entries(&self, size: u64) -> u64 {
        size.div_ceil(self.l2_coverage())
    }

    /// Bytes of a table that are cached as one piece.
    pub fn slice_bytes(&self) -> u64 {
        SLICE_BYTES.min(self.cluster_size())
    }

    /// L2 entries in one cached slice.
    pub fn slice_entries(&self) -> u64 {
        self.slice_bytes() / self.l2_entry_bytes()
    }

    /// Where on the virtual disk ends what the cached slice maps that maps `offset`.
    pub fn slice_end(&self, offset: u64) -> u64 {
        let coverage = self.slice_entries() << self.cluster_bits;
        (offset / coverage + 1).saturating_mul(coverage)
    }

    /// Refcounts in one refcount block.
    pub fn refcounts_per_block(&self) -> u64 {
        (self.cluster_size() * 8) >> self.refcount_order
    }

    /// Refcounts in one cached slice of a refcount block.
    pub fn refcounts_per_slice(&self) -> u64 {
        (self.slice_bytes() * 8) >> self.refcount_order
    }

    /// The guest cluster that `offset` lies in.
    pub fn guest_cluster(&self, offset: u64) -> GuestCluster {
        GuestCluster(offset >> self.cluster_bits)
    }

    /// Byte offset of a guest cluster on the virtual disk.
    pub fn guest_offset(&self, cluster: GuestCluster) -> u64 {
        cluster.0 << self.cluster_bits
    }

    /// `offset` within its cluster, of the file or of the virtual disk.
    pub fn in_cluster(&self, offset: u64) -> u64 {
        offset & (self.cluster_size() - 1)
    }

    /// The cluster of the file that `offset` lies in.
    pub fn host_cluster(&self, offset: u64) -> HostCluster {
        HostCluster(offset >> self.cluster_bits)
    }

    /// Byte offset of a cluster in the file.
    pub fn host_offset(&self, cluster: HostCluster) -> u64 {
        cluster.0 << self.cluster_bits
    }

    /// Clusters that `bytes` bytes fill or touch.
    pub fn clusters_for(&self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster_size())
    }

    /// Index into L1 for a guest cluster.
    pub fn l1_index(&self, cluster: GuestCluster) -> usize {
        usize::try_from(cluster.0 / self.l2_entries()).unwrap_or(usize::MAX)
    }

    /// Byte offset of a guest cluster's slice within its L2 table.
    pub fn slice_in_table(&self, cluster: GuestCluster) -> u64 {
        (cluster.0 % self.l2_entries()) / self.slice_entries() * self.slice_bytes()
    }

    /// Index of a guest cluster's entry within its L2 slice.
    pub fn index_in_slice(&self, cluster: GuestCluster) -> usize {
        usize::try_from(cluster.0 % self.slice_entries()).unwrap_or(usize::MAX)
    }

    /// Largest virtual disk in bytes that an L1 table of [`MAX_L1_BYTES`] can map.
    pub fn max_size(&self) -> u64 {
        (MAX_L1_BYTES / 8).saturating_mul(self.l2_coverage())
    }

    /// The first cluster index that a table entry cannot hold any more.
    pub fn host_limit(&self) -> u64 {
        1 << (MAX_HOST_BITS - self.cluster_bits)
    }
}

#[cfg(test)]
mod tests;
