//! Writing. What lies in the file already is written in place; new clusters are allocated by one
//! request at a time, as in QEMU.

use strata_exec::mem::{SgList, to_usize};
use strata_storage::error::{IoError, IoResult};

use super::{
    Qed,
    header::Features,
    lookup::{Mapping, Run, SLICE_ENTRIES},
};
use crate::below::Below;

/// Bytes of old content that are copied at once.
const CHUNK: u64 = 1 << 20;

impl Qed {
    /// Writes `data` at `offset` of the disk. Parts of clusters that this layer does not hold yet
    /// are filled in from `below`.
    ///
    /// # Errors
    /// The range does not lie on the disk; the image is read-only or has stopped; the host's
    /// error. What the range holds then is undefined.
    pub async fn write(&self, offset: u64, data: SgList, below: &dyn Below) -> IoResult<()> {
        self.check_range(offset, data.len() as u64)?;
        self.begin_write()?;
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let rest = data.slice(done, data.len() - done);
            let run = self.lookup(at, rest.len() as u64).await?;
            done += match run.mapping {
                Mapping::Data(host) => self.write_in_place(host, at, run, rest).await?,
                _ => self.write_new(at, rest, below).await?,
            };
        }
        Ok(())
    }

    /// Writes `data` to those clusters of the range that this layer does not hold yet, as zeros
    /// where it is all zeros; leaves the others as they are.
    ///
    /// # Errors
    /// As [`Qed::write`].
    pub async fn write_if_unallocated(
        &self,
        offset: u64,
        data: SgList,
        below: &dyn Below,
    ) -> IoResult<()> {
        self.check_range(offset, data.len() as u64)?;
        self.begin_write()?;
        let cluster_size = self.cluster_size();
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let in_cluster = to_usize(cluster_size - at % cluster_size);
            let part = data.slice(done, in_cluster.min(data.len() - done));
            let run = self.lookup(at, part.len() as u64).await?;
            done += if run.mapping != Mapping::Unallocated {
                part.len()
            } else if part.is_zero() {
                to_usize(self.zero_unallocated(at, part.len() as u64, below).await?)
            } else {
                self.write_new(at, part, below).await?
            };
        }
        Ok(())
    }

    /// As [`Qed::write_if_unallocated`], for zeros.
    ///
    /// # Errors
    /// As [`Qed::write`].
    pub async fn zero_if_unallocated(
        &self,
        offset: u64,
        len: u64,
        below: &dyn Below,
    ) -> IoResult<()> {
        self.check_range(offset, len)?;
        self.begin_write()?;
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let run = self.lookup(at, len - done).await?;
            done += match run.mapping {
                Mapping::Unallocated => self.zero_unallocated(at, run.len, below).await?,
                _ => run.len,
            };
        }
        Ok(())
    }

    pub(super) fn begin_write(&self) -> IoResult<()> {
        if self.read_only.get() {
            return Err(IoError::ReadOnly);
        }
        self.check_running()
    }

    async fn write_in_place(&self, host: u64, at: u64, run: Run, data: SgList) -> IoResult<usize> {
        // No longer than the data.
        let len = to_usize(run.len);
        let offset = host + at % self.cluster_size();
        self.file.write(offset, data.slice(0, len)).await?;
        Ok(len)
    }

    /// Writes to clusters that have no place in the file yet, and returns how many bytes it got
    /// written: 0 if somebody else was faster.
    pub(super) async fn write_new(
        &self,
        at: u64,
        data: SgList,
        below: &dyn Below,
    ) -> IoResult<usize> {
        let _guard = self.allocating.lock().await;
        self.make_room().await?;
        let run = self.lookup(at, data.len() as u64).await?;
        if let Mapping::Data(_) = run.mapping {
            return Ok(0);
        }
        self.mark_dirty().await?;
        let table = self.table_for(at).await?;
        let cluster_size = self.cluster_size();
        let first = at / cluster_size % self.header.borrow().table_entries();
        let room = (SLICE_ENTRIES - first % SLICE_ENTRIES) * cluster_size - at % cluster_size;
        let data = data.slice(0, to_usize(run.len.min(room)));
        let end = at + data.len() as u64;
        let count = (end.div_ceil(cluster_size)) - at / cluster_size;
        let host = self.allocate(count * cluster_size);
        let start = at - at % cluster_size;
        let behind = end.next_multiple_of(cluster_size) - end;
        let place = |guest: u64| host + (guest - start);
        let written = async {
            self.fill(run.mapping, start, place(start), at - start, below)
                .await?;
            self.file.write(place(at), data.clone()).await?;
            self.fill(run.mapping, end, place(end), behind, below)
                .await?;
            self.slice(table, first).await
        };
        let slice = self.named_or_taken_back(host, written.await)?;
        for n in 0..count {
            let index = to_usize(first % SLICE_ENTRIES + n);
            let entry = host + n * cluster_size;
            self.l2.set_entry(&slice, index, entry.swap_bytes());
        }
        Ok(data.len())
    }

    /// Lets go of what was allocated last, from `host` on, if what was to be done with it has
    /// failed.
    fn named_or_taken_back<T>(&self, host: u64, result: IoResult<T>) -> IoResult<T> {
        if result.is_err() {
            self.end.set(host);
            self.overhang.set(true);
        }
        result
    }

    /// Takes `len` bytes at the end of the file, whatever they read as.
    pub(super) fn allocate(&self, len: u64) -> u64 {
        let host = self.end.get();
        self.end.set(host + len);
        host
    }

    /// Writes to new clusters at `host` what the disk holds so far at `guest`.
    async fn fill(
        &self,
        mapping: Mapping,
        guest: u64,
        host: u64,
        len: u64,
        below: &dyn Below,
    ) -> IoResult<()> {
        if len == 0 {
            return Ok(());
        }
        if mapping == Mapping::Zero || below.is_empty() {
            return self.file.write_zeroes(host, len, true).await;
        }
        let mut done = 0;
        while done < len {
            let part = SgList::zeroed(to_usize(CHUNK.min(len - done)));
            // Behind the end of the disk there are zeros, so that nothing turns up if it grows.
            let visible = self.virtual_size().saturating_sub(guest + done);
            let visible = to_usize(visible.min(part.len() as u64));
            if visible > 0 {
                below
                    .read_below(guest + done, part.slice(0, visible))
                    .await?;
            }
            self.file.write(host + done, part.clone()).await?;
            done += part.len() as u64;
        }
        Ok(())
    }

    /// The L2 table that `at` belongs in, made if need be. The caller allocates.
    pub(super) async fn table_for(&self, at: u64) -> IoResult<u64> {
        let (coverage, bytes) = {
            let header = self.header.borrow();
            (header.l2_coverage(), header.table_bytes())
        };
        let index = to_usize(at / coverage);
        if let Some(table) = self.l2_table(index)? {
            return Ok(table);
        }
        let table = self.allocate(bytes);
        let zeroed = self.file.write_zeroes(table, bytes, true).await;
        self.named_or_taken_back(table, zeroed)?;
        self.l1.set(index, table.swap_bytes());
        Ok(table)
    }

    /// Says in the header that there may be clusters which nothing names. It gets there with the
    /// flush before the first table.
    pub(super) async fn mark_dirty(&self) -> IoResult<()> {
        if self.is_dirty() {
            return Ok(());
        }
        let mut header = self.header.borrow().clone();
        header.features.insert(Features::NEED_CHECK);
        self.write_header(header).await
    }
}
