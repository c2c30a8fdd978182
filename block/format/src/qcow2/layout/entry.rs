//! Entries of L1 and L2 tables (specification, "Cluster mapping"), and of the refcount table.

use super::{
    fields::Fields,
    geometry::{Geometry, HostCluster, MAX_HOST_BITS},
};

/// The cluster's refcount is exactly one: it may be written in place.
pub const COPIED: u64 = 1 << 63;
/// The L2 entry describes a compressed cluster.
pub const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeros (version 3, without extended L2 entries).
pub const ZERO: u64 = 1;
/// Bits 9 to 55 hold the host offset.
pub const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

/// A table in the file, as an L1 entry names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableRef {
    /// The cluster that holds the L2 table.
    pub host: HostCluster,
    /// Its refcount is one.
    pub copied: bool,
}

/// An L2 entry as it lies in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawEntry {
    /// Where the cluster is.
    pub descriptor: u64,
    /// In an extended entry: bit n says that subcluster n lies there, bit 32 + n that it reads as
    /// zeros. 0 in images without them.
    pub bitmap: u64,
}

/// Where the content of a subcluster is found. Without extended L2 entries that is a whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// In the layer below, or zeros.
    Unallocated {
        /// The host cluster in which others of the cluster's subclusters lie, or which is kept for
        /// later writes; and whether its refcount is one. Only with extended L2 entries.
        host: Option<(HostCluster, bool)>,
    },
    /// Zeros.
    Zero {
        /// The host cluster, if there is one: the same.
        host: Option<(HostCluster, bool)>,
    },
    /// In a host cluster.
    Data {
        /// The host cluster.
        host: HostCluster,
        /// Its refcount is one.
        copied: bool,
    },
    /// Compressed, in bytes of the file that need not be aligned.
    Compressed {
        /// Byte offset in the file.
        offset: u64,
        /// Bytes at most; the compressed stream may end earlier.
        len: u64,
    },
}

impl Mapping {
    /// The mapping that a subcluster `n` clusters further on has if the host clusters go on side by
    /// side. Compressed clusters never form a run.
    pub fn following(self, n: u64) -> Option<Self> {
        let further =
            |host: Option<(HostCluster, bool)>| host.map(|(host, copied)| (host.plus(n), copied));
        match self {
            Self::Unallocated { host } => Some(Self::Unallocated {
                host: further(host),
            }),
            Self::Zero { host } => Some(Self::Zero {
                host: further(host),
            }),
            Self::Data { host, copied } => Some(Self::Data {
                host: host.plus(n),
                copied,
            }),
            Self::Compressed { .. } => None,
        }
    }

    /// The host cluster that content can be put into before the entry is changed, because what
    /// lies there is not visible, and the cluster has no other reference.
    pub fn fillable(self) -> Option<HostCluster> {
        match self {
            Self::Unallocated { host } | Self::Zero { host } => {
                host.and_then(|(host, copied)| copied.then_some(host))
            }
            Self::Data { .. } | Self::Compressed { .. } => None,
        }
    }
}

/// What an L2 entry says of a guest cluster. In masks bit n is subcluster n.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Stored as it is, or not at all.
    Plain {
        /// The host cluster, and whether its refcount is one.
        host: Option<(HostCluster, bool)>,
        /// The subclusters that lie in it: none without a host cluster.
        data: u32,
        /// The subclusters that read as zeros: none of `data`.
        zero: u32,
    },
    /// Compressed as a whole: see [`Mapping::Compressed`].
    Compressed {
        /// Byte offset in the file.
        offset: u64,
        /// Bytes at most.
        len: u64,
    },
}

impl Entry {
    /// A cluster of which this layer holds nothing.
    pub const UNALLOCATED: Self = Self::Plain {
        host: None,
        data: 0,
        zero: 0,
    };

    /// A cluster in `host`, with refcount one, all of which is written.
    pub fn data(host: HostCluster, geometry: &Geometry) -> Self {
        Self::Plain {
            host: Some((host, true)),
            data: all(geometry),
            zero: 0,
        }
    }

    /// Where subcluster `n` is found.
    pub fn mapping(self, n: u32) -> Mapping {
        match self {
            Self::Compressed { offset, len } => Mapping::Compressed { offset, len },
            Self::Plain { host, data, zero } => match host {
                Some((host, copied)) if data >> n & 1 != 0 => Mapping::Data { host, copied },
                host if zero >> n & 1 != 0 => Mapping::Zero { host },
                host => Mapping::Unallocated { host },
            },
        }
    }

    /// How many subclusters from `n` on have the same mapping as that one.
    pub fn alike(self, n: u32, geometry: &Geometry) -> u32 {
        let rest = geometry.subclusters() - n;
        let Self::Plain { data, zero, .. } = self else {
            return rest;
        };
        let kind = match (data >> n & 1, zero >> n & 1) {
            (1, _) => data,
            (_, 1) => zero,
            _ => !(data | zero),
        };
        (kind >> n).trailing_ones().min(rest)
    }

    /// The entry once `written` has been written to `host`, where also lies what else the cluster
    /// holds; its refcount is one.
    pub fn with_data(self, host: HostCluster, written: u32, geometry: &Geometry) -> Self {
        let (data, zero) = match self {
            Self::Plain { data, zero, .. } => (data | written, zero & !written),
            Self::Compressed { .. } => (all(geometry), 0),
        };
        Self::Plain {
            host: Some((host, true)),
            data,
            zero,
        }
    }

    /// The entry once the subclusters `cleared` read as zeros. A host cluster in which nothing lies
    /// any more is left out, unless it shall be kept and has refcount one.
    pub fn with_zeros(self, cleared: u32, keep: bool) -> Self {
        let (host, data, zero) = match self {
            Self::Plain { host, data, zero } => (host, data & !cleared, zero | cleared),
            Self::Compressed { .. } => (None, 0, cleared),
        };
        let host = host.filter(|(_, copied)| data != 0 || (keep && *copied));
        Self::Plain { host, data, zero }
    }

    /// The subclusters that are not those of the layer below.
    pub fn held(self, geometry: &Geometry) -> u32 {
        match self {
            Self::Plain { data, zero, .. } => data | zero,
            Self::Compressed { .. } => all(geometry),
        }
    }

    /// The host cluster that holds or is kept for content as it is, and whether its refcount is
    /// one.
    pub fn host(self) -> Option<(HostCluster, bool)> {
        match self {
            Self::Plain { host, .. } => host,
            Self::Compressed { .. } => None,
        }
    }
}

/// The runs of subclusters in a mask: the first of each, and how many there are.
pub fn runs(mask: u32) -> impl Iterator<Item = (u32, u32)> {
    let next = move |from: u32| {
        let rest = mask & u32::MAX.checked_shl(from)?;
        let first = (rest != 0).then(|| rest.trailing_zeros())?;
        Some((first, (rest >> first).trailing_ones()))
    };
    std::iter::successors(next(0), move |(first, count)| next(first + count))
}

/// The mask of all subclusters of a cluster.
pub fn all(geometry: &Geometry) -> u32 {
    u32::MAX >> (32 - geometry.subclusters())
}

/// Reads an L1 entry; `None` if there is no table.
///
/// # Errors
/// What is wrong with it.
pub fn decode_l1(raw: u64, geometry: &Geometry) -> Result<Option<TableRef>, String> {
    if raw & !(OFFSET_MASK | COPIED) != 0 {
        return Err(format!("L1 entry {raw:#x} has reserved bits set"));
    }
    let offset = raw & OFFSET_MASK;
    if offset == 0 {
        return Ok(None);
    }
    if geometry.in_cluster(offset) != 0 {
        return Err(format!(
            "L2 table offset {offset:#x} is not cluster-aligned"
        ));
    }
    Ok(Some(TableRef {
        host: geometry.host_cluster(offset),
        copied: raw & COPIED != 0,
    }))
}

/// The L1 entry for a table with refcount one.
pub fn encode_l1(host: HostCluster, geometry: &Geometry) -> u64 {
    geometry.host_offset(host) | COPIED
}

/// Reads an L2 entry.
///
/// # Errors
/// What is wrong with it.
pub fn decode_l2(raw: RawEntry, geometry: &Geometry) -> Result<Entry, String> {
    let RawEntry { descriptor, bitmap } = raw;
    let external = geometry.external_data;
    if descriptor & COMPRESSED != 0 && external {
        return Err("a compressed cluster, in an image with an external data file".into());
    }
    if descriptor & COMPRESSED != 0 {
        return decode_compressed(raw, geometry);
    }
    let flag = descriptor & ZERO != 0;
    let no_flag = geometry.version < 3 || geometry.extended_l2;
    if descriptor & !(OFFSET_MASK | COPIED | ZERO) != 0 || (flag && no_flag) {
        return Err(format!("L2 entry {descriptor:#x} has reserved bits set"));
    }
    let (offset, copied) = (descriptor & OFFSET_MASK, descriptor & COPIED != 0);
    if geometry.in_cluster(offset) != 0 {
        return Err(format!("cluster offset {offset:#x} is not cluster-aligned"));
    }
    // In an external data file the first cluster can hold data, and each is used once at most.
    let used = offset != 0 || external && copied && !flag;
    let host = used.then(|| (geometry.host_cluster(offset), copied || external));
    let (data, zero) = match (geometry.extended_l2, flag) {
        (true, _) => halves(bitmap),
        (false, true) => (0, 1),
        (false, false) => (u32::from(host.is_some()), 0),
    };
    if data & zero != 0 {
        return Err(format!(
            "L2 entry {descriptor:#x} with bitmap {bitmap:#x} has subclusters that are both allocated and zero"
        ));
    }
    if data != 0 && host.is_none() {
        return Err(format!(
            "L2 entry {descriptor:#x} with bitmap {bitmap:#x} has allocated subclusters but no cluster"
        ));
    }
    Ok(Entry::Plain { host, data, zero })
}

/// The masks of a subcluster bitmap: which hold data, and which read as zeros.
pub fn halves(bitmap: u64) -> (u32, u32) {
    let bytes = bitmap.to_be_bytes();
    (Fields(&bytes).u32(4), Fields(&bytes).u32(0))
}

/// Bits 0 to x-1 are the offset, x to 61 the number of further sectors, with
/// x = 62 - (cluster bits - 8). Bit 63 is not used and is 0, and so is the bitmap.
fn decode_compressed(raw: RawEntry, geometry: &Geometry) -> Result<Entry, String> {
    let RawEntry { descriptor, bitmap } = raw;
    if descriptor & COPIED != 0 {
        return Err(format!(
            "compressed L2 entry {descriptor:#x} has the COPIED flag"
        ));
    }
    if bitmap != 0 {
        return Err(format!(
            "compressed L2 entry {descriptor:#x} has a subcluster bitmap, {bitmap:#x}"
        ));
    }
    let x = 62 - (geometry.cluster_bits - 8);
    let offset = descriptor & ((1 << x) - 1);
    let sectors = (descriptor & !COMPRESSED) >> x;
    if offset >> 56 != 0 {
        return Err(format!(
            "compressed L2 entry {descriptor:#x} lies beyond 2^56"
        ));
    }
    Ok(Entry::Compressed {
        offset,
        len: (sectors + 1) * 512 - offset % 512,
    })
}

/// The L2 entry as it lies in the file.
pub fn encode_l2(entry: Entry, geometry: &Geometry) -> RawEntry {
    match entry {
        Entry::Plain { host, data, zero } => {
            let place = host.map_or(0, |(host, copied)| {
                geometry.host_offset(host) | if copied { COPIED } else { 0 }
            });
            if geometry.extended_l2 {
                RawEntry {
                    descriptor: place,
                    bitmap: u64::from(zero) << 32 | u64::from(data),
                }
            } else {
                RawEntry {
                    descriptor: place | if zero == 0 { 0 } else { ZERO },
                    bitmap: 0,
                }
            }
        }
        Entry::Compressed { offset, len } => {
            let x = 62 - (geometry.cluster_bits - 8);
            let further = (offset + len - 1) / 512 - offset / 512;
            RawEntry {
                descriptor: COMPRESSED | further << x | offset,
                bitmap: 0,
            }
        }
    }
}

/// Where in the file streams have to end: an entry has fewer bits for them than for clusters.
pub fn compressed_limit(geometry: &Geometry) -> u64 {
    1 << (62 - (geometry.cluster_bits - 8)).min(MAX_HOST_BITS)
}

/// Reads an entry of the refcount table; `None` if there is no block.
///
/// # Errors
/// What is wrong with it.
pub fn refcount_block(
    raw: u64,
    geometry: &Geometry,
) -> std::result::Result<Option<HostCluster>, String> {
    if raw == 0 {
        return Ok(None);
    }
    if raw & 0x1ff != 0 {
        return Err(format!(
            "refcount table entry {raw:#x} has reserved bits set"
        ));
    }
    if geometry.in_cluster(raw) != 0 || raw >> MAX_HOST_BITS != 0 {
        return Err(format!("refcount block offset {raw:#x} is not valid"));
    }
    Ok(Some(geometry.host_cluster(raw)))
}

#[cfg(test)]
mod tests;
