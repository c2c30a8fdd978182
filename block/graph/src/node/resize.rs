//! Changing the size of a layer.

use strata_format::qcow2::Preallocation;
use strata_storage::error::{Error, Result};

use super::Node;

impl Node {
    /// Changes the size to `size` bytes. What is added reads as zeros; what lies behind a smaller
    /// end is given up. Nothing else uses the layer meanwhile, and no other program reads it.
    ///
    /// # Errors
    /// The format or the host cannot have that size; the layer has its old size then, or the new
    /// one if the error came after that was written.
    pub async fn resize(&self, size: u64) -> Result<()> {
        self.resize_with(size, Preallocation::Off).await
    }

    /// As [`Node::resize`]; what is added gets room of its own at once.
    ///
    /// # Errors
    /// As [`Node::resize`]; the format has no such preallocation.
    pub async fn resize_with(&self, size: u64, preallocation: Preallocation) -> Result<()> {
        let _changing = self.changing()?;
        self.bitmaps
            .check_resize(size)
            .map_err(|why| Error::Image {
                file: self.path().to_owned(),
                why,
            })?;
        let result = self.image.resize(size, preallocation, self).await;
        // Also after an error: it may have come when the disk had its new size already.
        self.update_size();
        self.bitmaps.resize(self.size.get());
        result
    }
}
