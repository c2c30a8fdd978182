//! A layer below the top becomes writable, and read-only again.

use strata_storage::{Access, error::Result};

use super::Node;

impl Node {
    /// Makes a layer that is open read-only writable where it is: its files are opened and locked
    /// for that, and its format is notified. Readers may be at work meanwhile; when this returns,
    /// all of them have entered what they read, so that the caller may write.
    ///
    /// # Errors
    /// Its files cannot be written, or others use them; its format does not let it be written. Then
    /// the layer is read-only, and its files are locked, as before.
    pub async fn prepare_writing(&self) -> Result<()> {
        if self.is_writable() {
            return Ok(());
        }
        self.image.prepare_writing().await?;
        self.set_writable(true);
        self.readers().leave().await;
        Ok(())
    }

    /// The way back from [`Node::prepare_writing`]: everything is durable, and the file as its
    /// format leaves it when it is closed; others may read it. Nobody writes to the layer any more;
    /// readers may be at work.
    ///
    /// # Errors
    /// An I/O error, as of [`Node::flush`]. Then the layer is still writable and locked for that.
    pub async fn finish_writing(&self) -> Result<()> {
        if !self.is_writable() {
            return Ok(());
        }
        self.set_read_only();
        // Readers that have come before may keep clusters from being freed.
        drop(self.enter_whole().await?);
        let mut result = self.image.settle().await;
        if result.is_ok() {
            result = self.image.lock(Access::Read);
        }
        if result.is_err() {
            self.set_writable(true);
            self.readers().leave().await;
        }
        result
    }
}
