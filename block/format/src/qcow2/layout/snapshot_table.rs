//! The table of internal snapshots (specification, "Snapshots").

use strata_storage::{Storage, error::IoResult};

use crate::qcow2::layout::{
    fields::Fields,
    geometry::{Geometry, MAX_L1_BYTES, MAX_SNAPSHOTS},
    header::Header,
};

/// Bytes of an entry before its extra data, id and name.
const FIXED: usize = 40;
/// Bytes of extra data at most, as QEMU has it.
pub const MAX_EXTRA: u64 = 1024;
/// Bytes of a table at most, as QEMU has it.
pub const MAX_TABLE: u64 = 1024 * MAX_SNAPSHOTS as u64;

/// An entry of the table, as far as it says where things are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// Bytes of the entry, with padding.
    pub len: u64,
    /// Bytes of extra data in it.
    pub extra_len: u64,
    /// Where the snapshot's L1 table starts.
    pub l1_offset: u64,
    /// Entries of that table.
    pub l1_size: u32,
}

impl SnapshotEntry {
    /// Reads the entry that lies `done` bytes behind the start of the table; `None` if that is
    /// behind the end of the file, or the table gets too big.
    ///
    /// # Errors
    /// The host's error.
    pub async fn read(file: &Storage, table: u64, done: u64) -> IoResult<Option<Self>> {
        let at = table + done;
        if at >= file.len() {
            return Ok(None);
        }
        let fixed = file.read_vec(at, FIXED).await?;
        let fields = Fields(&fixed);
        let extra_len = u64::from(fields.u32(36));
        let names = u64::from(fields.u16(12)) + u64::from(fields.u16(14));
        let len = FIXED as u64 + extra_len + names;
        let entry = Self {
            len: len.next_multiple_of(8),
            extra_len,
            l1_offset: fields.u64(0),
            l1_size: fields.u32(8),
        };
        Ok((done + entry.len <= MAX_TABLE).then_some(entry))
    }

    /// Bytes of the snapshot's L1 table.
    pub fn l1_bytes(&self) -> u64 {
        u64::from(self.l1_size) * 8
    }

    /// Whether the L1 table lies where one can: behind the header and within a file of `file_len`
    /// bytes, whose last cluster may be cut short. (Otherwise a few bytes of a hostile image could
    /// make us read gigabytes of nothing.) One without entries, of a disk without bytes, lies
    /// nowhere.
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

/// All entries that the header names, with where they lie in the table.
///
/// # Errors
/// The inner error says what is wrong with the table, the outer is the host's.
pub async fn read_entries(
    file: &Storage,
    header: &Header,
) -> IoResult<Result<Vec<(u64, SnapshotEntry)>, String>> {
    let mut entries = Vec::new();
    let mut done = 0;
    for index in 0..header.snapshots {
        let Some(entry) = SnapshotEntry::read(file, header.snapshots_offset, done).await? else {
            return Ok(Err("snapshot table is too big".into()));
        };
        if !entry.has_valid_l1(&header.geometry, file.len()) {
            return Ok(Err(format!("internal snapshot {index} is not valid")));
        }
        if entry.extra_len > MAX_EXTRA {
            return Ok(Err(format!(
                "too much extra metadata in snapshot table entry {index}"
            )));
        }
        entries.push((done, entry));
        done += entry.len;
    }
    Ok(Ok(entries))
}

#[cfg(test)]
mod tests;
