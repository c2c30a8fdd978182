//! Copy-on-write: filling up subclusters of which only a part is written.

use strata_exec::mem::{SgList, to_usize};
use strata_storage::error::IoResult;

use super::Data;
use crate::{
    below::Below,
    qcow2::layout::{
        entry::{self, Entry, Mapping},
        geometry::HostCluster,
    },
};

impl Data {
    /// `data` for `at`, extended to whole subclusters with what these hold so far: `mapping` is
    /// that of the first one. A compressed cluster is extended as a whole. Returns where on the
    /// disk the bytes begin. On `fresh` clusters, which read as zeros, zeros need not be added.
    pub(super) async fn fill_around(
        &self,
        mapping: Mapping,
        at: u64,
        data: SgList,
        fresh: bool,
        below: &dyn Below,
    ) -> IoResult<(u64, SgList)> {
        let g = &self.geometry;
        let unit = self.changed_as_one(mapping);
        let before = at % unit;
        let end = at + data.len() as u64;
        let behind = end.next_multiple_of(unit) - end;
        if before == 0 && behind == 0 {
            return Ok((at, data));
        }
        let zeros = match mapping {
            Mapping::Unallocated { .. } => below.is_empty(),
            Mapping::Zero { .. } => true,
            Mapping::Data { .. } | Mapping::Compressed { .. } => false,
        };
        if zeros && fresh {
            return Ok((at, data));
        }
        let start = at - before;
        let head = self.old_bytes(mapping, start, before, zeros, below).await?;
        let last = mapping.following((end >> g.cluster_bits) - (at >> g.cluster_bits));
        let tail = self
            .old_bytes(last.unwrap_or(mapping), end, behind, zeros, below)
            .await?;
        Ok((start, SgList::concat(&[head, data, tail])))
    }

    /// Bytes that can only get another place together: a subcluster, or a compressed cluster.
    pub(super) fn changed_as_one(&self, mapping: Mapping) -> u64 {
        match mapping {
            Mapping::Compressed { .. } => self.geometry.cluster_size(),
            _ => self.geometry.subcluster_size(),
        }
    }

    /// Copies to `to` what the cluster of `old` holds as data besides the subclusters `written`.
    pub(super) async fn copy_others(
        &self,
        old: Entry,
        written: u32,
        to: HostCluster,
    ) -> IoResult<()> {
        let Entry::Plain {
            host: Some((from, _)),
            data,
            ..
        } = old
        else {
            return Ok(());
        };
        let g = &self.geometry;
        for (first, count) in entry::runs(data & !written) {
            let offset = u64::from(first) * g.subcluster_size();
            // A cluster at most.
            let len = to_usize(u64::from(count) * g.subcluster_size());
            let (from, to) = (g.host_offset(from) + offset, g.host_offset(to) + offset);
            let bytes = self.file.storage().read_vec(from, len).await?;
            self.file.storage().write_vec(to, bytes).await?;
        }
        Ok(())
    }

    /// What the `len` bytes at `at`, within one subcluster, hold so far. Behind the end of the disk
    /// there are zeros, so that nothing turns up there when it grows.
    async fn old_bytes(
        &self,
        mapping: Mapping,
        at: u64,
        len: u64,
        zeros: bool,
        below: &dyn Below,
    ) -> IoResult<SgList> {
        let old = SgList::zeroed(to_usize(len));
        let visible = to_usize(len.min(self.size.get().saturating_sub(at)));
        if zeros || visible == 0 {
            return Ok(old);
        }
        let part = old.slice(0, visible);
        match mapping {
            Mapping::Unallocated { .. } => below.read_below(at, part).await?,
            mapping => self.read_mapped(mapping, at, part).await?,
        }
        Ok(old)
    }
}
