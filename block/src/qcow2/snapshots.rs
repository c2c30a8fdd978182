//! The table of internal snapshots (specification, "Snapshots").

use super::{
    geometry::{Geometry, MAX_L1_BYTES},
    header::Header,
};
use crate::{error::IoResult, storage::Storage};

/// Bytes of an entry before its extra data, id and name.
const FIXED: usize = 40;
/// Bytes of an entry at most: extra data, id and name have limits of their own in QEMU, too.
const MAX_ENTRY: u64 = FIXED as u64 + 1024 + 2 * 65536;

/// An entry of the table, as far as it says where things are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// Bytes of the entry, with padding.
    pub len: u64,
    /// Where the snapshot's L1 table starts.
    pub l1_offset: u64,
    /// Entries of that table.
    pub l1_size: u32,
}

impl SnapshotEntry {
    /// Reads the entry at `at`; `None` if there is no valid one.
    ///
    /// # Errors
    /// The host's error.
    pub async fn read(file: &Storage, at: u64) -> IoResult<Option<Self>> {
        if at >= file.len() {
            return Ok(None);
        }
        let fixed = file.read_vec(at, FIXED).await?;
        let be = |start: usize, len: usize| {
            let bytes = &fixed[start..start + len];
            bytes.iter().fold(0, |n, &byte| n << 8 | u64::from(byte))
        };
        let len = FIXED as u64 + be(36, 4) + be(12, 2) + be(14, 2);
        let entry = Self {
            len: len.next_multiple_of(8),
            l1_offset: be(0, 8),
            l1_size: be(8, 4) as u32,
        };
        Ok((len <= MAX_ENTRY).then_some(entry))
    }

    /// Bytes of the snapshot's L1 table.
    pub fn l1_bytes(&self) -> u64 {
        u64::from(self.l1_size) * 8
    }

    /// Whether the L1 table lies where one can: behind the header and within a file of `file_len`
    /// bytes, whose last cluster may be cut short. (Otherwise a few bytes of a hostile image could
    /// make us read gigabytes of nothing.) One without entries, of a disk without bytes, lies nowhere.
    pub fn has_valid_l1(&self, geometry: &Geometry, file_len: u64) -> bool {
        if self.l1_size == 0 {
            return geometry.in_cluster(self.l1_offset) == 0;
        }
        let file_end = file_len.next_multiple_of(geometry.cluster_size());
        let end = self.l1_offset.checked_add(self.l1_bytes());
        self.l1_bytes() <= MAX_L1_BYTES
            && self.l1_offset >= geometry.cluster_size()
            && end.is_some_and(|end| end <= file_end)
            && geometry.in_cluster(self.l1_offset) == 0
    }
}

/// All entries that the header names, for an image that is to be written.
///
/// # Errors
/// The inner error says what is wrong with the table, the outer is the host's.
pub async fn read_entries(
    file: &Storage,
    header: &Header,
) -> IoResult<Result<Vec<SnapshotEntry>, String>> {
    let mut entries = Vec::new();
    let mut at = header.snapshots_offset;
    for index in 0..header.snapshots {
        match SnapshotEntry::read(file, at).await? {
            Some(entry) if entry.has_valid_l1(&header.geometry, file.len()) => {
                at += entry.len;
                entries.push(entry);
            }
            _ => return Ok(Err(format!("internal snapshot {index} is not valid"))),
        }
    }
    Ok(Ok(entries))
}

#[cfg(test)]
mod tests;
