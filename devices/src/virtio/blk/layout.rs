//! Device configuration: `struct virtio_blk_config` (virtio 1.2, 5.2.4), and the limits in it.

use strata_block::disk::DiskInfo;

/// Bytes that any virtio-blk device counts in, whatever its block size.
pub const SECTOR: u64 = 512;
/// Bytes of the structure, without the fields of features that are not offered.
pub const LEN: usize = 60;
/// Offset of `writeback`.
pub const WRITEBACK: usize = 32;
/// Bytes in one segment of a read or write: `size_max`. With `seg_max` it bounds a request.
pub const MAX_SEGMENT: u32 = 1 << 20;
/// Segments in one discard or write-zeroes request.
pub const MAX_RANGES: u32 = 32;
/// Sectors in one segment of those: 1 GiB.
pub const MAX_RANGE_SECTORS: u32 = 1 << 21;

/// The structure for a disk of `sectors` sectors.
pub fn image(info: &DiskInfo, sectors: u64, queues: u16, writeback: bool) -> [u8; LEN] {
    let mut image = [0; LEN];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &sectors.to_le_bytes());
    put(8, &MAX_SEGMENT.to_le_bytes());
    // Header and status take two descriptors of a chain.
    put(12, &(u32::from(super::QUEUE_SIZE) - 2).to_le_bytes());
    put(20, &info.block_size.to_le_bytes());
    // Topology: so many logical blocks in a physical block, aligned, and no better size than that.
    let per_physical = info.physical_block_size / info.block_size;
    let exponent = per_physical.checked_ilog2().unwrap_or_default();
    put(24, &[u8::try_from(exponent).unwrap_or_default()]);
    let minimum = u16::try_from(per_physical).unwrap_or(1);
    put(26, &minimum.to_le_bytes());
    put(WRITEBACK, &[u8::from(writeback)]);
    put(34, &queues.to_le_bytes());
    put(36, &MAX_RANGE_SECTORS.to_le_bytes());
    put(40, &MAX_RANGES.to_le_bytes());
    let sector = u32::try_from(SECTOR).expect("512");
    put(44, &(info.discard_granularity / sector).to_le_bytes());
    put(48, &MAX_RANGE_SECTORS.to_le_bytes());
    put(52, &MAX_RANGES.to_le_bytes());
    put(56, &[1]);
    image
}
