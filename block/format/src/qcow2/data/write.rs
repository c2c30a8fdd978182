//! Writing data.

use strata_exec::mem::{SgList, to_usize};
use strata_storage::error::IoResult;

use super::{Data, claims::Claim};
use crate::{
    below::Below,
    qcow2::{
        layout::{
            data_file,
            entry::{Entry, Mapping},
            geometry::{HostCluster, HostRun},
        },
        tables::MappedRun,
    },
    table_cache::Slice,
};

/// Host clusters for a write.
#[derive(Clone, Copy)]
struct Target {
    run: HostRun,
    /// They read as zeros already.
    fresh: bool,
    /// The entries named them before, or they are in an external data file: they must not be
    /// freed, whatever happens.
    kept: bool,
}

/// What was written, and the slice with the entries that shall say so.
struct Filled<'a> {
    slice: &'a Slice,
    run: HostRun,
    /// The bytes of the disk, from `at` to before `end`.
    at: u64,
    end: u64,
}

impl Data {
    /// Writes `data` at `offset` of the disk. Parts of clusters that this layer does not hold yet
    /// are filled in from `below`.
    ///
    /// # Errors
    /// The range does not lie on the disk; the image is read-only or has stopped; the host's
    /// error. What the range holds then is undefined.
    pub async fn write(&self, offset: u64, data: SgList, below: &dyn Below) -> IoResult<()> {
        self.check_range(offset, data.len() as u64)?;
        self.file.begin_write().await?;
        let _operation = self.space.operation();
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let rest = data.len() - done;
            let run = self.tables.lookup(at, rest as u64).await?;
            let part = data.slice(done, (to_usize(run.len)).min(rest));
            done += match run.mapping {
                Mapping::Data { host, copied: true } => self.write_in_place(host, at, part).await?,
                // Has memory of its own: writes in place are to stay small.
                _ => Box::pin(self.write_new(run, at, part, below)).await?,
            };
        }
        Ok(())
    }

    /// Writes `data` to those subclusters of the range that this layer does not hold yet, as zeros
    /// where it is all zeros; leaves the others as they are. What the disk shows stays the same.
    ///
    /// # Errors
    /// As [`Data::write`].
    pub async fn write_if_unallocated(
        &self,
        offset: u64,
        data: SgList,
        below: &dyn Below,
    ) -> IoResult<()> {
        self.check_range(offset, data.len() as u64)?;
        self.file.begin_write().await?;
        let _operation = self.space.operation();
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let run = self.tables.lookup(at, (data.len() - done) as u64).await?;
            let part = data.slice(done, to_usize(run.len));
            if matches!(run.mapping, Mapping::Unallocated { .. }) {
                let (len, zero) = self.uniform_part(at, &part);
                let part = part.slice(0, len);
                done += if zero {
                    to_usize(self.write_zero_part(run, at, len as u64, below).await?)
                } else {
                    self.write_new(run, at, part, below).await?
                };
            } else {
                done += part.len();
            }
        }
        Ok(())
    }

    /// As [`Data::write_if_unallocated`], for zeros.
    ///
    /// # Errors
    /// As [`Data::write`].
    pub async fn zero_if_unallocated(
        &self,
        offset: u64,
        len: u64,
        below: &dyn Below,
    ) -> IoResult<()> {
        self.check_range(offset, len)?;
        self.file.begin_write().await?;
        let _operation = self.space.operation();
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let run = self.tables.lookup(at, len - done).await?;
            done += match run.mapping {
                Mapping::Unallocated { .. } => {
                    self.write_zero_part(run, at, run.len, below).await?
                }
                _ => run.len,
            };
        }
        Ok(())
    }

    /// Bytes from the start of `data` in subclusters that are all zeros, or none of which is.
    fn uniform_part(&self, at: u64, data: &SgList) -> (usize, bool) {
        // 2 MiB at most.
        let unit = to_usize(self.geometry.subcluster_size());
        let mut end = (unit - to_usize(at) % unit).min(data.len());
        let zero = data.slice(0, end).is_zero();
        while end < data.len() {
            let len = unit.min(data.len() - end);
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
        self.space.check_data(offset, len as u64)?;
        self.file.data().write(offset, data).await?;
        Ok(len)
    }

    /// Writes to subclusters that cannot be written in place, and returns how many bytes it got
    /// written: 0 if another task was allocating there, so that the caller has to look again.
    pub(super) async fn write_new(
        &self,
        run: MappedRun,
        at: u64,
        data: SgList,
        below: &dyn Below,
    ) -> IoResult<usize> {
        // A run may span many tables where there are none yet; one slice is done at a time.
        let end = (at + data.len() as u64).min(self.geometry.slice_end(at));
        let fillable = run.mapping.fillable();
        // What was looked up is still true here: there was no await since.
        let claim = match fillable {
            Some(_) => self.claim_subclusters(at, end),
            None => self.claim_clusters(at, end),
        };
        let Some(mut claim) = claim else {
            self.claims.wait().await;
            return Ok(0);
        };
        let slice = self
            .order
            .slice_for_write(self.geometry.guest_cluster(at))
            .await?;
        let target = self.target(fillable, at, &mut claim).await?;
        let end = end.min(claim.end());
        // No longer than `data`.
        let len = to_usize(end - at);
        let filled = Filled {
            slice: &slice,
            run: target.run,
            at,
            end,
        };
        let written = async {
            self.write_filled(run.mapping, target, at, data.slice(0, len), below)
                .await?;
            if !target.kept {
                self.copy_around(&filled).await?;
            }
            self.link(&filled)
        }
        .await;
        if written.is_err() && !target.kept {
            self.space.deallocate(target.run).await;
        }
        written.map(|()| len)
    }

    /// Finds host clusters for a claim, which shrinks to what can be had side by side.
    async fn target(
        &self,
        fillable: Option<HostCluster>,
        at: u64,
        claim: &mut Claim<'_>,
    ) -> IoResult<Target> {
        let g = &self.geometry;
        let start = at - g.in_cluster(at);
        let count = g.clusters_for(claim.end() - start);
        if let Some(first) = fillable {
            return Ok(Target {
                run: HostRun { first, count },
                fresh: false,
                kept: true,
            });
        }
        if g.external_data {
            return Ok(Target {
                run: data_file::place(g.guest_cluster(at), count),
                fresh: false,
                kept: true,
            });
        }
        let allocated = self.space.allocate(count).await?;
        claim.shrink(start + allocated.run.count * g.cluster_size());
        Ok(Target {
            run: allocated.run,
            fresh: allocated.fresh,
            kept: false,
        })
    }

    /// Writes whole subclusters: `data`, and around it what the subclusters hold so far.
    async fn write_filled(
        &self,
        mapping: Mapping,
        target: Target,
        at: u64,
        data: SgList,
        below: &dyn Below,
    ) -> IoResult<()> {
        let g = &self.geometry;
        let (start, filled) = self
            .fill_around(mapping, at, data, target.fresh, below)
            .await?;
        let offset = g.host_offset(target.run.first) + g.in_cluster(start);
        self.space.check_data(offset, filled.len() as u64)?;
        self.file
            .data()
            .write(offset, self.within_raw(offset, filled))
            .await
    }

    /// Brings along to new clusters what the first and the last one hold besides what was written.
    async fn copy_around(&self, filled: &Filled<'_>) -> IoResult<()> {
        let last = filled.run.count - 1;
        for n in [0, last].into_iter().take(filled.run.count.min(2) as usize) {
            let (_, old, written) = self.before(filled, n)?;
            self.copy_others(old, written, filled.run.first.plus(n))
                .await?;
        }
        Ok(())
    }

    /// Makes the entries point to what has been written (rule W1), and frees what they
    /// pointed to.
    fn link(&self, filled: &Filled<'_>) -> IoResult<()> {
        for n in 0..filled.run.count {
            let (index, old, written) = self.before(filled, n)?;
            let host = filled.run.first.plus(n);
            let new = old.with_data(host, written, &self.geometry);
            self.tables.set_entry(filled.slice, index, new);
            self.tables.free_old_clusters(old, Some(host));
        }
        Ok(())
    }

    /// The index of the `n`th entry, the entry so far, and the subclusters that were written.
    fn before(&self, filled: &Filled<'_>, n: u64) -> IoResult<(usize, Entry, u32)> {
        let g = &self.geometry;
        let cluster = g.guest_cluster(filled.at).plus(n);
        let index = g.index_in_slice(cluster);
        let old = self.tables.entry(filled.slice, index)?;
        Ok((index, old, g.touched(cluster, filled.at, filled.end)))
    }
}
