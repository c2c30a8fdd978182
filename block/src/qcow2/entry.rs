//! L1 and L2 table entries (specification, "Cluster mapping").

use super::geometry::{Geometry, HostCluster};

/// The cluster's refcount is exactly one: it may be written in place.
pub const COPIED: u64 = 1 << 63;
/// The L2 entry describes a compressed cluster.
pub const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeros (version 3).
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

/// Where the content of a guest cluster is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mapping {
    /// In the layer below, or zeros.
    Unallocated,
    /// Zeros. A host cluster may be kept for later writes.
    Zero {
        /// The host cluster and whether its refcount is one.
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
    /// The mapping that the guest cluster `n` further on has if the host clusters go on side by
    /// side. Compressed clusters never form a run.
    pub fn following(self, n: u64) -> Option<Self> {
        match self {
            Self::Unallocated | Self::Zero { host: None } => Some(self),
            Self::Zero {
                host: Some((host, copied)),
            } => Some(Self::Zero {
                host: Some((host.plus(n), copied)),
            }),
            Self::Data { host, copied } => Some(Self::Data {
                host: host.plus(n),
                copied,
            }),
            Self::Compressed { .. } => None,
        }
    }
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
pub fn decode_l2(raw: u64, geometry: &Geometry) -> Result<Mapping, String> {
    if raw & COMPRESSED != 0 {
        return decode_compressed(raw, geometry);
    }
    let zero = raw & ZERO != 0;
    if raw & !(OFFSET_MASK | COPIED | ZERO) != 0 || (zero && geometry.version < 3) {
        return Err(format!("L2 entry {raw:#x} has reserved bits set"));
    }
    let (offset, copied) = (raw & OFFSET_MASK, raw & COPIED != 0);
    if geometry.in_cluster(offset) != 0 {
        return Err(format!("cluster offset {offset:#x} is not cluster-aligned"));
    }
    let host = (offset != 0).then(|| geometry.host_cluster(offset));
    Ok(match (zero, host) {
        (true, host) => Mapping::Zero {
            host: host.map(|host| (host, copied)),
        },
        (false, Some(host)) => Mapping::Data { host, copied },
        (false, None) => Mapping::Unallocated,
    })
}

/// Bits 0 to x-1 are the offset, x to 61 the number of further sectors, with
/// x = 62 - (cluster bits - 8). Bit 63 is not used and is 0.
fn decode_compressed(raw: u64, geometry: &Geometry) -> Result<Mapping, String> {
    if raw & COPIED != 0 {
        return Err(format!("compressed L2 entry {raw:#x} has the COPIED flag"));
    }
    let x = 62 - (geometry.cluster_bits - 8);
    let offset = raw & ((1 << x) - 1);
    let sectors = (raw & !COMPRESSED) >> x;
    if offset >> 56 != 0 {
        return Err(format!("compressed L2 entry {raw:#x} lies beyond 2^56"));
    }
    Ok(Mapping::Compressed {
        offset,
        len: (sectors + 1) * 512 - offset % 512,
    })
}

/// The L2 entry for data in a cluster with refcount one.
pub fn encode_data(host: HostCluster, geometry: &Geometry) -> u64 {
    geometry.host_offset(host) | COPIED
}

/// The L2 entry for a cluster of zeros that keeps `host`, with refcount one, if there is one.
pub fn encode_zero(host: Option<HostCluster>, geometry: &Geometry) -> u64 {
    host.map_or(ZERO, |host| geometry.host_offset(host) | COPIED | ZERO)
}

/// Where in the file streams have to end: an entry has fewer bits for them than for clusters.
pub fn compressed_limit(geometry: &Geometry) -> u64 {
    1 << (62 - (geometry.cluster_bits - 8)).min(super::geometry::MAX_HOST_BITS)
}

/// The L2 entry for a stream of `len` bytes at `offset` of the file.
pub fn encode_compressed(offset: u64, len: u64, geometry: &Geometry) -> u64 {
    let x = 62 - (geometry.cluster_bits - 8);
    let further = (offset + len - 1) / 512 - offset / 512;
    COMPRESSED | further << x | offset
}

#[cfg(test)]
mod tests;
