//! Guest data in an external data file.

use strata_exec::mem::{SgList, to_usize};
use strata_storage::error::IoResult;

use super::Data;

impl Data {
    /// What of `data`, whole clusters for `offset`, is written there: a raw external data file has
    /// no more bytes than the disk.
    pub(super) fn within_raw(&self, offset: u64, data: SgList) -> SgList {
        let room = self.size.get().saturating_sub(offset);
        if self.file.has_raw_data() && room < data.len() as u64 {
            // Less than the length.
            data.slice(0, to_usize(room))
        } else {
            data
        }
    }

    /// Makes `len` bytes at `at` of the disk read as zeros in a raw external data file. What the
    /// tables say stays true.
    pub(super) async fn zero_raw_data(&self, at: u64, len: u64, unmap: bool) -> IoResult<()> {
        self.file.data().write_zeroes(at, len, unmap).await
    }

    /// Cuts an external data file off behind the disk's new end of `size` bytes. Growing the disk
    /// zeroes what is added, and so lengthens a raw one again.
    pub async fn cut_data(&self, size: u64) -> IoResult<()> {
        if self.geometry.external_data && self.file.data().len() > size {
            self.file.data().cut_off(size).await?;
        }
        Ok(())
    }

    /// Gives `len` bytes of an external data file back to the host; their entries say already that
    /// they are zeros. What was there is not needed any more, whatever becomes of the entries: a
    /// crash may show zeros early, as it may show them late.
    pub(super) async fn punch_data(&self, offset: u64, len: u64) {
        if let Err(error) = self.file.data().punch_hole(offset, len).await {
            // The space stays in use on the host; nothing else is lost.
            tracing::warn!(%error, "discarded data could not be given back to the host");
        }
    }
}
