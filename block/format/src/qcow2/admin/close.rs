//! Closing an image, so that the next program that opens it finds nothing to put right.

use strata_storage::error::Result;

use crate::qcow2::Qcow2;

impl Qcow2 {
    /// Flushes, stores the bitmaps, and writes back also what freeing clusters has changed, and
    /// refcounts that were written lazily: then the image is no longer marked dirty. Nothing is
    /// written to the image meanwhile.
    ///
    /// # Errors
    /// As [`Qcow2::flush`]; the bitmaps may be all that could not be stored.
    pub async fn close(&self) -> Result<()> {
        self.flush().await?;
        let stored = self.store_bitmaps().await;
        // What is freed by the first changes refcounts, which the second writes.
        for _ in 0..2 {
            if !self.is_read_only() && (self.space.has_dirty_refcounts() || self.space.has_freed())
            {
                self.flush().await?;
            }
        }
        if !self.is_read_only() {
            self.order.mark_dirty(false).await?;
        }
        stored
    }
}
