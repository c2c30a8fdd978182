//! Copy-on-write: filling up clusters of which only a part is written.

use super::{Below, Qcow2, entry::Mapping};
use crate::{error::IoResult, mem::SgList};

impl Qcow2 {
    /// `data` for `at`, extended to whole clusters with what these hold so far: `mapping` is that
    /// of the first one. Returns where in the first cluster the bytes begin. On `fresh` clusters,
    /// which read as zeros, zeros need not be added.
    pub(super) async fn fill_around(
        &self,
        mapping: Mapping,
        at: u64,
        data: SgList,
        fresh: bool,
        below: &dyn Below,
    ) -> IoResult<(u64, SgList)> {
        let g = &self.geometry;
        let start = g.in_cluster(at);
        let end = at + data.len() as u64;
        let behind = end.next_multiple_of(g.cluster_size()) - end;
        if start == 0 && behind == 0 {
            return Ok((0, data));
        }
        let zeros = match mapping {
            Mapping::Unallocated => below.is_empty(),
            Mapping::Zero { .. } => true,
            Mapping::Data { .. } | Mapping::Compressed { .. } => false,
        };
        if zeros && fresh {
            return Ok((start, data));
        }
        let head = self
            .old_bytes(mapping, at - start, start, zeros, below)
            .await?;
        let last = mapping.following((end >> g.cluster_bits) - (at >> g.cluster_bits));
        let tail = self
            .old_bytes(last.unwrap_or(mapping), end, behind, zeros, below)
            .await?;
        Ok((0, SgList::concat(&[head, data, tail])))
    }

    /// What the `len` bytes at `at`, within one cluster, hold so far. Behind the end of the disk
    /// there are zeros, so that nothing turns up there when it grows.
    async fn old_bytes(
        &self,
        mapping: Mapping,
        at: u64,
        len: u64,
        zeros: bool,
        below: &dyn Below,
    ) -> IoResult<SgList> {
        let old = SgList::zeroed(len as usize);
        let visible = len.min(self.size.get().saturating_sub(at)) as usize;
        if zeros || visible == 0 {
            return Ok(old);
        }
        let part = old.slice(0, visible);
        match mapping {
            Mapping::Unallocated => below.read_below(at, part).await?,
            mapping => self.read_mapped(mapping, at, part).await?,
        }
        Ok(old)
    }
}
