//! Writing data.

use super::{
    Below, Qcow2,
    cache::Slice,
    claims::Claim,
    entry::{self, Mapping},
    geometry::{GuestCluster, HostCluster, HostRun},
    mapping::Run,
};
use crate::{error::IoResult, mem::SgList};

/// Host clusters for a write.
#[derive(Clone, Copy)]
struct Target {
    run: HostRun,
    /// They read as zeros already.
    fresh: bool,
    /// The entries named them before: they must not be freed, whatever happens.
    kept: bool,
}

impl Qcow2 {
    /// Writes `data` at `offset` of the disk. Parts of clusters that this layer does not hold yet
    /// are filled in from `below`.
    ///
    /// # Errors
    /// The range does not lie on the disk; the image is read-only or has stopped; the host's
    /// error. What the range holds then is undefined.
    pub async fn write(&self, offset: u64, data: SgList, below: &dyn Below) -> IoResult<()> {
        self.check_range(offset, data.len() as u64)?;
        self.begin_write().await?;
        let _operation = self.freed.operation();
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let rest = data.len() - done;
            let run = self.lookup(at, rest as u64).await?;
            let part = data.slice(done, (run.len as usize).min(rest));
            done += match run.mapping {
                Mapping::Data { host, copied: true } => self.write_in_place(host, at, part).await?,
                _ => self.write_new(run, at, part, below).await?,
            };
        }
        Ok(())
    }

    /// Writes `data` to those clusters of the range that this layer does not hold yet, as zeros
    /// where it is all zeros; leaves the others as they are.
    ///
    /// # Errors
    /// As [`Qcow2::write`].
    pub async fn write_if_unallocated(
        &self,
        offset: u64,
        data: SgList,
        below: &dyn Below,
    ) -> IoResult<()> {
        self.check_range(offset, data.len() as u64)?;
        self.begin_write().await?;
        let _operation = self.freed.operation();
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let run = self.lookup(at, (data.len() - done) as u64).await?;
            let part = data.slice(done, run.len as usize);
            if run.mapping == Mapping::Unallocated {
                let (len, zero) = self.uniform_part(at, &part);
                let part = part.slice(0, len);
                done += if zero {
                    self.write_zero_part(run, at, len as u64, below).await? as usize
                } else {
                    self.write_new(run, at, part, below).await?
                };
            } else {
                done += part.len();
            }
        }
        Ok(())
    }

    /// Bytes from the start of `data` in clusters that are all zeros, or none of which is.
    fn uniform_part(&self, at: u64, data: &SgList) -> (usize, bool) {
        let cluster = self.geometry.cluster_len();
        let mut end = (cluster - self.geometry.in_cluster(at) as usize).min(data.len());
        let zero = data.slice(0, end).is_zero();
        while end < data.len() {
            let len = cluster.min(data.len() - end);
            if data.slice(end, len).is_zero() != zero {
                break;
            }
            end += len;
        }
        (end, zero)
    }

    async fn write_in_place(&self, host: HostCluster, at: u64, data: SgList) -> IoResult<usize> {
        let g = &self.geometry;
        let offset = g.host_offset(host) + g.in_cluster(at);
        let len = data.len();
        self.check_data(offset, len as u64)?;
        self.file.write(offset, data).await?;
        Ok(len)
    }

    /// Writes to clusters that cannot be written in place, and returns how many bytes it got
    /// written: 0 if somebody else was allocating there, so that the caller has to look again.
    pub(super) async fn write_new(
        &self,
        run: Run,
        at: u64,
        data: SgList,
        below: &dyn Below,
    ) -> IoResult<usize> {
        let g = &self.geometry;
        let first = g.guest_cluster(at);
        let wanted = g.clusters_for(g.in_cluster(at) + data.len() as u64);
        // A run may span many tables where there are none yet; one slice is done at a time.
        let count = wanted.min(g.slice_entries() - g.index_in_slice(first) as u64);
        // What was looked up is still true here: there was no await since.
        let Some(mut claim) = self.claims.claim(first, count) else {
            self.claims.wait().await;
            return Ok(0);
        };
        let slice = self.l2_slice_for_write(first).await?;
        let target = self.target(run.mapping, &mut claim).await?;
        let len = self.bytes_in(at, data.len(), target.run.count);
        let data = data.slice(0, len);
        let written = self
            .write_filled(run.mapping, target, at, data, below)
            .await;
        let linked = written.and_then(|()| self.link(&slice, first, target.run));
        if linked.is_err() && !target.kept {
            self.drop_references(target.run).await?;
        }
        linked.map(|()| len)
    }

    /// How much of `len` bytes from `at` on lies in the first `clusters` clusters.
    fn bytes_in(&self, at: u64, len: usize, clusters: u64) -> usize {
        let g = &self.geometry;
        let room = clusters * g.cluster_size() - g.in_cluster(at);
        len.min(usize::try_from(room).unwrap_or(usize::MAX))
    }

    /// Finds host clusters for a claim, which shrinks to what can be had side by side.
    async fn target(&self, mapping: Mapping, claim: &mut Claim<'_>) -> IoResult<Target> {
        if let Mapping::Zero {
            host: Some((host, true)),
        } = mapping
        {
            // Its content is not visible, so it can be filled before the entry is changed.
            let run = HostRun {
                first: host,
                count: claim.count(),
            };
            return Ok(Target {
                run,
                fresh: false,
                kept: true,
            });
        }
        let allocated = self.allocate(claim.count()).await?;
        claim.shrink(allocated.run.count);
        Ok(Target {
            run: allocated.run,
            fresh: allocated.fresh,
            kept: false,
        })
    }

    /// Writes whole clusters: `data`, and around it what the clusters hold so far.
    async fn write_filled(
        &self,
        mapping: Mapping,
        target: Target,
        at: u64,
        data: SgList,
        below: &dyn Below,
    ) -> IoResult<()> {
        let g = &self.geometry;
        let start = g.host_offset(target.run.first);
        let (offset, filled) = self
            .fill_around(mapping, at, data, target.fresh, below)
            .await?;
        let offset = start + offset;
        self.check_data(offset, filled.len() as u64)?;
        self.file.write(offset, filled).await
    }

    /// Makes the clusters from `first` on point to `run`, whose data is written (rule W1), and
    /// lets go of what they pointed to.
    fn link(&self, slice: &Slice, first: GuestCluster, run: HostRun) -> IoResult<()> {
        let start = self.geometry.index_in_slice(first);
        for n in 0..run.count {
            let index = start + n as usize;
            let new = run.first.plus(n);
            let old = entry::decode_l2(slice.entry(index), &self.geometry);
            let old = old.map_err(|why| self.corrupt(why))?;
            self.l2
                .set_entry(slice, index, entry::encode_data(new, &self.geometry));
            self.let_go(old, Some(new));
        }
        Ok(())
    }

    /// The host clusters of `old` are no longer named by an entry that now names `kept`.
    pub(super) fn let_go(&self, old: Mapping, kept: Option<HostCluster>) {
        let g = &self.geometry;
        match old {
            Mapping::Data { host, .. }
            | Mapping::Zero {
                host: Some((host, _)),
            } if Some(host) != kept => self.freed.push(HostRun::one(host)),
            Mapping::Compressed { offset, len } => {
                let first = g.host_cluster(offset);
                let count = g.clusters_for(g.in_cluster(offset) + len);
                self.freed.push(HostRun { first, count });
            }
            _ => {}
        }
    }
}
