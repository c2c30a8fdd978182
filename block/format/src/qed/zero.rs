//! Zeroing and discarding.

use strata_exec::mem::{SgList, to_usize};
use strata_storage::error::IoResult;

use super::{
    Qed,
    lookup::{Mapping, SLICE_ENTRIES, ZERO},
};
use crate::below::Below;

/// Bytes of zeros that are written at once.
const CHUNK: u64 = 1 << 20;

impl Qed {
    /// Makes the range read as zeros, whatever lies below.
    ///
    /// # Errors
    /// As [`Qed::write`].
    pub async fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        unmap: bool,
        below: &dyn Below,
    ) -> IoResult<()> {
        self.check_range(offset, len)?;
        self.begin_write()?;
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let run = self.lookup(at, len - done).await?;
            done += match run.mapping {
                Mapping::Zero => run.len,
                Mapping::Data(host) => {
                    let host = host + at % self.cluster_size();
                    self.file.write_zeroes(host, run.len, unmap).await?;
                    run.len
                }
                Mapping::Unallocated if below.is_empty() => run.len,
                Mapping::Unallocated => self.zero_unallocated(at, run.len, below).await?,
            };
        }
        Ok(())
    }

    /// Gives up the content of the range: it reads as zeros or as before afterwards. Clusters keep
    /// their places in the file, which takes their space back from the host when they are written.
    ///
    /// # Errors
    /// As [`Qed::write`].
    pub async fn discard(&self, offset: u64, len: u64) -> IoResult<()> {
        self.check_range(offset, len)?;
        self.begin_write()?;
        let mut done = 0;
        while done < len {
            let at = offset + done;
            let run = self.lookup(at, len - done).await?;
            if let Mapping::Data(host) = run.mapping {
                let host = host + at % self.cluster_size();
                self.file.punch_hole(host, run.len).await?;
            }
            done += run.len;
        }
        Ok(())
    }

    /// Makes unallocated bytes read as zeros: whole clusters in the table, parts of one as data.
    /// Returns how many bytes it got done.
    pub(super) async fn zero_unallocated(
        &self,
        at: u64,
        len: u64,
        below: &dyn Below,
    ) -> IoResult<u64> {
        let cluster_size = self.cluster_size();
        let within = at % cluster_size;
        let to_end = at + len == self.virtual_size();
        let whole = if to_end {
            len
        } else {
            len - len % cluster_size
        };
        if within != 0 || whole == 0 {
            let part = len.min(cluster_size - within).min(CHUNK);
            let zeros = SgList::zeroed(part as usize);
            return Ok(self.write_new(at, zeros, below).await? as u64);
        }
        let _guard = self.allocating.lock().await;
        self.make_room().await?;
        let run = self.lookup(at, whole).await?;
        if run.mapping != Mapping::Unallocated {
            return Ok(0);
        }
        self.mark_dirty().await?;
        let table = self.table_for(at).await?;
        let first = at / cluster_size % self.header.borrow().table_entries();
        let in_slice = SLICE_ENTRIES - first % SLICE_ENTRIES;
        let count = run.len.div_ceil(cluster_size).min(in_slice);
        let slice = self.slice(table, first).await?;
        for n in 0..count {
            let index = to_usize(first % SLICE_ENTRIES + n);
            self.l2.set_entry(&slice, index, ZERO.swap_bytes());
        }
        Ok(run.len.min(count * cluster_size))
    }
}
