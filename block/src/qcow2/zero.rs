//! Zeroing and discarding.

use super::{
    Below, Qcow2,
    entry::{self, Mapping},
    mapping::Run,
};
use crate::{error::IoResult, mem::SgList};

/// Bytes that are written at once where zeros have to be written as data.
const ZERO_CHUNK: u64 = 1 << 20;

/// What becomes of whole clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// They read as zeros; host clusters are kept for later writes.
    Keep,
    /// They read as zeros; host clusters are freed.
    Unmap,
}

impl Qcow2 {
    /// Makes the range read as zeros, whatever lies below. With `unmap` host clusters are freed.
    ///
    /// # Errors
    /// As [`Qcow2::write`].
    pub async fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        unmap: bool,
        below: &dyn Below,
    ) -> IoResult<()> {
        self.check_range(offset, len)?;
        self.begin_write().await?;
        let _operation = self.freed.operation();
        let mode = if unmap { Mode::Unmap } else { Mode::Keep };
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let run = self.lookup(at, len - done).await?;
            done += self.zero_part(run, at, mode, below).await?;
        }
        Ok(())
    }

    /// Gives up the content of whole clusters in the range. They read as zeros afterwards, or as
    /// before; never as what lies below, unless they did before.
    ///
    /// # Errors
    /// As [`Qcow2::write`].
    pub async fn discard(&self, offset: u64, len: u64, below: &dyn Below) -> IoResult<()> {
        self.check_range(offset, len)?;
        self.begin_write().await?;
        let _operation = self.freed.operation();
        let g = &self.geometry;
        let start = offset.next_multiple_of(g.cluster_size());
        let end = if offset + len == self.size.get() {
            self.size.get()
        } else {
            (offset + len) >> g.cluster_bits << g.cluster_bits
        };
        let mut at = start;
        while at < end {
            let run = self.lookup(at, end - at).await?;
            at += match run.mapping {
                Mapping::Unallocated | Mapping::Zero { host: None } => run.len,
                _ if self.has_zero_clusters(below) => {
                    self.zero_clusters(at, run.len, Mode::Unmap).await?
                }
                _ => run.len,
            };
        }
        Ok(())
    }

    /// Makes the first `len` bytes of a run without data of its own read as zeros; returns how
    /// many bytes it got done, as [`Qcow2::write_new`] does.
    pub(super) async fn write_zero_part(
        &self,
        run: Run,
        at: u64,
        len: u64,
        below: &dyn Below,
    ) -> IoResult<u64> {
        let run = Run { len, ..run };
        self.zero_part(run, at, Mode::Unmap, below).await
    }

    /// Whether whole clusters can be made zero in the tables.
    fn has_zero_clusters(&self, below: &dyn Below) -> bool {
        self.geometry.version > 2 || below.is_empty()
    }

    async fn zero_part(&self, run: Run, at: u64, mode: Mode, below: &dyn Below) -> IoResult<u64> {
        let reads_zero = match run.mapping {
            Mapping::Zero { host } => mode == Mode::Keep || host.is_none(),
            Mapping::Unallocated => below.is_empty(),
            _ => false,
        };
        if reads_zero {
            return Ok(run.len);
        }
        let g = &self.geometry;
        let whole = self.whole_clusters(at, run.len);
        if g.in_cluster(at) != 0 || whole == 0 || !self.has_zero_clusters(below) {
            let to_boundary = g.cluster_size() - g.in_cluster(at);
            let part = if self.has_zero_clusters(below) {
                run.len.min(to_boundary)
            } else {
                run.len
            };
            return self.write_real_zeros(run, at, part, below).await;
        }
        if mode == Mode::Keep && g.version == 2 {
            // Nothing lies below, and there is no zero flag.
            return self.write_real_zeros(run, at, run.len, below).await;
        }
        self.zero_clusters(at, whole, mode).await
    }

    /// Bytes from the cluster boundary `at` on that fill whole clusters, counting the last one as
    /// whole if it is filled up to the end of the disk.
    fn whole_clusters(&self, at: u64, len: u64) -> u64 {
        let g = &self.geometry;
        if at + len == self.size.get() {
            len
        } else {
            len >> g.cluster_bits << g.cluster_bits
        }
    }

    /// Writes zeros as data.
    async fn write_real_zeros(
        &self,
        run: Run,
        at: u64,
        len: u64,
        below: &dyn Below,
    ) -> IoResult<u64> {
        let g = &self.geometry;
        match run.mapping {
            Mapping::Zero { .. } => Ok(len),
            Mapping::Data { host, copied: true } => {
                let offset = g.host_offset(host) + g.in_cluster(at);
                self.check_data(offset, len)?;
                self.file.write_zeroes(offset, len, false).await?;
                Ok(len)
            }
            _ => {
                let zeros = SgList::zeroed(len.min(ZERO_CHUNK) as usize);
                Ok(self.write_new(run, at, zeros, below).await? as u64)
            }
        }
    }

    /// Changes the entries of the whole clusters in `len` bytes from `at` on; returns 0 if somebody
    /// else was allocating there.
    async fn zero_clusters(&self, at: u64, len: u64, mode: Mode) -> IoResult<u64> {
        let g = &self.geometry;
        let first = g.guest_cluster(at);
        // A run may span many tables where there are none yet; one slice is done at a time.
        let in_slice = g.slice_entries() - g.index_in_slice(first) as u64;
        let count = g.clusters_for(len).min(in_slice);
        let Some(claim) = self.claims.claim(first, count) else {
            self.claims.wait().await;
            return Ok(0);
        };
        let slice = self.l2_slice_for_write(first).await?;
        for n in 0..claim.count() {
            let index = g.index_in_slice(first) + n as usize;
            let old = entry::decode_l2(slice.entry(index), g).map_err(|why| self.corrupt(why))?;
            let kept = match old {
                Mapping::Data { host, copied: true } if mode == Mode::Keep => Some(host),
                _ => None,
            };
            let new = if g.version == 2 {
                0
            } else {
                entry::encode_zero(kept, g)
            };
            self.l2.set_entry(&slice, index, new);
            self.let_go(old, kept);
        }
        let done = claim.count() * g.cluster_size();
        Ok(done.min(len))
    }
}
