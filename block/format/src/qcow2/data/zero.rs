//! Zeroing and discarding.

use strata_exec::mem::SgList;
use strata_storage::error::IoResult;

use super::Data;
use crate::{
    below::Below,
    qcow2::{
        layout::entry::{self, Entry, Mapping},
        tables::MappedRun,
    },
};

/// Bytes that are written at once where zeros have to be written as data.
const ZERO_CHUNK: u64 = 1 << 20;

/// What becomes of whole subclusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// They read as zeros; host clusters are kept for later writes.
    Keep,
    /// They read as zeros; host clusters are freed once nothing lies in them.
    Unmap,
    /// The same for what this layer holds. What it does not hold stays so.
    Discard,
}

impl Data {
    /// Makes the range read as zeros, whatever lies below. With `unmap` host clusters are freed.
    ///
    /// # Errors
    /// As [`Data::write`].
    pub async fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        unmap: bool,
        below: &dyn Below,
    ) -> IoResult<()> {
        self.check_range(offset, len)?;
        self.file.begin_write().await?;
        if self.file.has_raw_data() {
            return self.zero_raw_data(offset, len, unmap).await;
        }
        let _operation = self.space.operation();
        let mode = if unmap { Mode::Unmap } else { Mode::Keep };
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let run = self.tables.lookup(at, len - done).await?;
            done += self.zero_part(run, at, mode, below).await?;
        }
        Ok(())
    }

    /// Gives up the content of whole subclusters in the range. They read as zeros afterwards, or as
    /// before; never as what lies below, unless they did before.
    ///
    /// # Errors
    /// As [`Data::write`].
    pub async fn discard(&self, offset: u64, len: u64, below: &dyn Below) -> IoResult<()> {
        self.check_range(offset, len)?;
        self.file.begin_write().await?;
        if self.file.has_raw_data() {
            return self.zero_raw_data(offset, len, self.discard).await;
        }
        let _operation = self.space.operation();
        let g = &self.geometry;
        let start = offset.next_multiple_of(g.subcluster_size());
        let end = if offset + len == self.size.get() {
            self.size.get()
        } else {
            (offset + len) - (offset + len) % g.subcluster_size()
        };
        let mut at = start;
        while at < end {
            let run = self.tables.lookup(at, end - at).await?;
            at += match run.mapping {
                Mapping::Unallocated { host: None } | Mapping::Zero { host: None } => run.len,
                _ if self.has_zero_clusters(below) => self.discard_part(run, at).await?,
                _ => run.len,
            };
        }
        Ok(())
    }

    /// Discards whole subclusters, or passes over a part of a compressed cluster.
    async fn discard_part(&self, run: MappedRun, at: u64) -> IoResult<u64> {
        let unit = self.changed_as_one(run.mapping);
        let whole = self.whole_part(at, run.len, unit);
        if !at.is_multiple_of(unit) || whole == 0 {
            return Ok(run.len);
        }
        self.zero_clusters(at, whole, Mode::Discard).await
    }

    /// Makes the first `len` bytes of a run without data of its own read as zeros; returns how
    /// many bytes it got done, as [`Data::write_new`] does.
    pub(super) async fn write_zero_part(
        &self,
        run: MappedRun,
        at: u64,
        len: u64,
        below: &dyn Below,
    ) -> IoResult<u64> {
        let run = MappedRun { len, ..run };
        self.zero_part(run, at, Mode::Keep, below).await
    }

    /// Whether whole subclusters can be made zero in the tables.
    fn has_zero_clusters(&self, below: &dyn Below) -> bool {
        self.geometry.version > 2 || below.is_empty()
    }

    async fn zero_part(
        &self,
        run: MappedRun,
        at: u64,
        mode: Mode,
        below: &dyn Below,
    ) -> IoResult<u64> {
        let (reads_zero, host) = match run.mapping {
            Mapping::Zero { host } => (true, host),
            Mapping::Unallocated { host } => (below.is_empty(), host),
            _ => (false, None),
        };
        if reads_zero && (mode == Mode::Keep || host.is_none()) {
            return Ok(run.len);
        }
        let unit = self.changed_as_one(run.mapping);
        let whole = self.whole_part(at, run.len, unit);
        if !at.is_multiple_of(unit) || whole == 0 || !self.has_zero_clusters(below) {
            let part = if self.has_zero_clusters(below) {
                run.len.min(unit - at % unit)
            } else {
                run.len
            };
            if reads_zero {
                return Ok(part);
            }
            return self.write_real_zeros(run, at, part, below).await;
        }
        if mode == Mode::Keep && self.geometry.version == 2 {
            // Nothing lies below, and there is no zero flag.
            return self.write_real_zeros(run, at, run.len, below).await;
        }
        self.zero_clusters(at, whole, mode).await
    }

    /// Bytes from the multiple `at` of `unit` on that fill whole units, counting the last one as
    /// whole if it is filled up to the end of the disk.
    fn whole_part(&self, at: u64, len: u64, unit: u64) -> u64 {
        if at + len == self.size.get() {
            len
        } else {
            len - len % unit
        }
    }

    /// Writes zeros as data.
    async fn write_real_zeros(
        &self,
        run: MappedRun,
        at: u64,
        len: u64,
        below: &dyn Below,
    ) -> IoResult<u64> {
        let g = &self.geometry;
        match run.mapping {
            Mapping::Data { host, copied: true } => {
                let offset = g.host_offset(host) + g.in_cluster(at);
                self.space.check_data(offset, len)?;
                self.file.data().write_zeroes(offset, len, false).await?;
                Ok(len)
            }
            _ => {
                let zeros = SgList::zeroed(len.min(ZERO_CHUNK) as usize);
                Ok(self.write_new(run, at, zeros, below).await? as u64)
            }
        }
    }

    /// Changes the entries for the whole subclusters in `len` bytes from `at` on; returns 0 if
    /// another task was allocating there.
    async fn zero_clusters(&self, at: u64, len: u64, mode: Mode) -> IoResult<u64> {
        let g = &self.geometry;
        // A run may span many tables where there are none yet; one slice is done at a time.
        let end = (at + len).min(g.slice_end(at));
        // Whole ones, as their host clusters may go.
        let Some(claim) = self.claim_clusters(at, end) else {
            self.claims.wait().await;
            return Ok(0);
        };
        let end = end.min(claim.end());
        let first = g.guest_cluster(at);
        let slice = self.order.slice_for_write(first).await?;
        let mut holes = Vec::new();
        for n in 0..g.clusters_for(g.in_cluster(at) + end - at) {
            let cluster = first.plus(n);
            let index = g.index_in_slice(cluster);
            let old = self.tables.entry(&slice, index)?;
            let touched = g.touched(cluster, at, end);
            let new = self.zeroed(old, touched, mode);
            if new != old {
                self.tables.set_entry(&slice, index, new);
                self.tables
                    .free_old_clusters(old, new.host().map(|(host, _)| host));
                holes.extend(self.holes(old, new));
            }
        }
        if self.discard && mode != Mode::Keep {
            if g.external_data {
                self.punch_data(at, end - at).await;
            } else {
                self.punch_holes(holes).await?;
            }
        }
        Ok(end - at)
    }

    /// Where in the file subclusters lay that are given up while others stay in their cluster, as
    /// offsets and lengths.
    fn holes(&self, old: Entry, new: Entry) -> Vec<(u64, u64)> {
        let (
            Entry::Plain { data: before, .. },
            Entry::Plain {
                host: Some((host, true)),
                data,
                ..
            },
        ) = (old, new)
        else {
            return Vec::new();
        };
        let g = &self.geometry;
        let place = |(first, count)| {
            let offset = g.host_offset(host) + u64::from(first) * g.subcluster_size();
            (offset, u64::from(count) * g.subcluster_size())
        };
        entry::runs(before & !data).map(place).collect()
    }

    /// Gives the space back to the host. Until the tables are durable a crash may still show the
    /// subclusters: as zeros, which is what they shall become.
    async fn punch_holes(&self, holes: Vec<(u64, u64)>) -> IoResult<()> {
        for (offset, len) in holes {
            self.space.check_data(offset, len)?;
            if let Err(error) = self.file.storage().punch_hole(offset, len).await {
                // The space stays in use on the host; nothing else is lost.
                tracing::warn!(%error, "discarded subclusters could not be given back to the host");
            }
        }
        Ok(())
    }

    fn zeroed(&self, old: Entry, touched: u32, mode: Mode) -> Entry {
        if self.geometry.version == 2 {
            return Entry::UNALLOCATED;
        }
        let cleared = match mode {
            Mode::Keep | Mode::Unmap => touched,
            Mode::Discard => touched & old.held(&self.geometry),
        };
        old.with_zeros(cleared, mode == Mode::Keep)
    }
}
