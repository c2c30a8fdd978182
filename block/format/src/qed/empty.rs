//! Giving up all that an image holds, so that its disk shows what lies below.

use strata_storage::error::IoResult;

use super::Qed;

impl Qed {
    /// Clears L1, also behind the disk's end, durably, and cuts the file behind it. Nothing else
    /// uses the image meanwhile.
    ///
    /// # Errors
    /// The host's error.
    pub async fn make_empty(&self) -> IoResult<()> {
        self.begin_write()?;
        self.flush().await?;
        self.mark_dirty().await?;
        for index in 0..self.l1.len() {
            if let Some(table) = self.l2_table(index)? {
                self.l1.set(index, 0);
                let bytes = self.header.borrow().table_bytes();
                self.l2.forget(table, bytes);
            }
        }
        let (behind, end) = {
            let header = self.header.borrow();
            let of_disk = self.l1.len() as u64 * 8;
            (
                header.l1_offset + of_disk,
                header.l1_offset + header.table_bytes(),
            )
        };
        // Entries behind the disk's end are not read, but what they name is about to be used anew.
        if behind < end {
            self.file.write_zeroes(behind, end - behind, false).await?;
        }
        self.flush().await?;
        if end < self.file.len() {
            self.file.cut_off(end).await?;
        }
        self.end.set(end);
        self.flush().await
    }
}
