//! Looking up where guest clusters are.

use strata_exec::mem::to_usize;
use strata_storage::error::IoResult;

use super::Tables;
use crate::{
    qcow2::layout::{
        data_file,
        entry::{Entry, Mapping, decode_l2},
        geometry::{GuestCluster, HostCluster},
    },
    table_cache::Slice,
};

/// Subclusters with one mapping, as a look at one L2 slice finds them.
#[derive(Debug, Clone, Copy)]
pub(in crate::qcow2) struct MappedRun {
    /// Bytes from the offset that was asked for.
    pub len: u64,
    /// Mapping of the first subcluster and its like in that cluster; those in the clusters that
    /// follow have [`Mapping::following`].
    pub mapping: Mapping,
}

impl Tables {
    /// The longest run from `offset` on that one look at the tables finds. What it says holds
    /// until the caller's next await, or for as long as claims or the caller's caller see to it.
    pub async fn lookup(&self, offset: u64, len: u64) -> IoResult<MappedRun> {
        let g = &self.geometry;
        let cluster = g.guest_cluster(offset);
        let index = g.l1_index(cluster);
        let Some(table) = self.l2_table(index)? else {
            return Ok(self.unmapped_run(index, offset, len));
        };
        let slice = self.slice(table, cluster).await?;
        let first = g.index_in_slice(cluster);
        let entry = self.checked_entry(&slice, first, cluster)?;
        let subcluster = g.subcluster(offset);
        let mapping = entry.mapping(subcluster);
        let wanted = g.clusters_for(g.in_cluster(offset) + len);
        let most = wanted.min(g.slice_entries() - first as u64);
        let alike = |entry: Entry, from| u64::from(entry.alike(from, g)) * g.subcluster_size();
        // In bytes from the start of the first cluster.
        let mut end = u64::from(subcluster) * g.subcluster_size() + alike(entry, subcluster);
        let mut count = 1;
        while end == count * g.cluster_size()
            && count < most
            && let Some(next) = mapping.following(count)
        {
            // A bad entry ends the run; the request that gets there fails.
            match self.checked_entry(&slice, first + to_usize(count), cluster.plus(count)) {
                Ok(found) if found.mapping(0) == next => end += alike(found, 0),
                _ => break,
            }
            count += 1;
        }
        let len = (end - g.in_cluster(offset)).min(len);
        Ok(MappedRun { len, mapping })
    }

    /// The L2 table that L1 names at `index`, if there is one.
    fn l2_table(&self, index: usize) -> IoResult<Option<HostCluster>> {
        let raw = self.l1.get(index);
        let Some(table) = self.decode_l1(raw)? else {
            return Ok(None);
        };
        if self.geometry.host_offset(table.host) >= self.file.storage().len() {
            return Err(self
                .file
                .corrupt(format!("L1 entry {raw:#x} points outside the file")));
        }
        Ok(Some(table.host))
    }

    /// A run without L2 tables from `offset`, in L1 entry `index`, on.
    fn unmapped_run(&self, index: usize, offset: u64, len: u64) -> MappedRun {
        let coverage = self.geometry.l2_coverage();
        let mut end = (index as u64 + 1).saturating_mul(coverage);
        let mut next = index + 1;
        while end - offset < len && next < self.l1.len() && self.l1.get(next) == 0 {
            end = end.saturating_add(coverage);
            next += 1;
        }
        MappedRun {
            len: len.min(end - offset),
            mapping: Mapping::Unallocated { host: None },
        }
    }

    /// Reads the L2 entry of `cluster` and checks it against the file.
    fn checked_entry(&self, slice: &Slice, index: usize, cluster: GuestCluster) -> IoResult<Entry> {
        let at = self.geometry.guest_offset(cluster);
        let wrong = |why| self.file.corrupt(format!("guest offset {at:#x}: {why}"));
        let raw = self.raw_entry(slice, index);
        let entry = decode_l2(raw, &self.geometry).map_err(wrong)?;
        if let Some((host, _)) = entry.host() {
            data_file::check_place(&self.geometry, host, cluster).map_err(wrong)?;
        }
        let outside = match entry {
            // Zeros lie behind the end of an external data file.
            _ if self.geometry.external_data => false,
            Entry::Plain {
                host: Some((host, _)),
                data: 1..,
                ..
            } => self.geometry.host_offset(host) >= self.file.storage().len(),
            Entry::Plain { .. } => false,
            Entry::Compressed { offset, .. } => offset >= self.file.storage().len(),
        };
        if outside {
            let raw = raw.descriptor;
            return Err(wrong(format!("L2 entry {raw:#x} points outside the file")));
        }
        Ok(entry)
    }
}
