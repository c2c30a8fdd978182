//! Changing the size of a layer.

use super::{Driver, Node};
use crate::{
    error::{Error, Result},
    qcow2::Preallocation,
    size,
    storage::Storage,
};

impl Node {
    /// Changes the size to `size` bytes. What is added reads as zeros; what lies behind a smaller
    /// end is given up. Nothing else uses the layer meanwhile, and no other program reads it.
    ///
    /// # Errors
    /// The format or the host cannot have that size; the layer has its old size then, or the new one
    /// if the error came after that was written.
    pub async fn resize(&self, size: u64) -> Result<()> {
        self.resize_with(size, Preallocation::Off).await
    }

    /// As [`Node::resize`]; what is added gets room of its own at once.
    ///
    /// # Errors
    /// As [`Node::resize`]; the format has no such preallocation.
    pub async fn resize_with(&self, size: u64, preallocation: Preallocation) -> Result<()> {
        self.check_writable()?;
        self.bitmaps
            .check_resize(size)
            .map_err(|why| self.refused(why))?;
        let result = match &self.driver {
            Driver::Raw(file) => self.resize_raw(file, size, preallocation).await,
            Driver::Qcow2(image) => image.resize_with(size, preallocation, self).await,
            Driver::Qed(_) if preallocation != Preallocation::Off => {
                Err(self.unknown(preallocation))
            }
            Driver::Qed(image) => image.resize(size, self).await,
        };
        // Also after an error: it may have come when the disk had its new size already.
        self.size.set(match &self.driver {
            // As for a file that is opened.
            Driver::Raw(file) => file.len().next_multiple_of(512),
            Driver::Qcow2(image) => image.virtual_size(),
            Driver::Qed(image) => image.virtual_size(),
        });
        self.bitmaps.resize(self.size.get());
        result
    }

    async fn resize_raw(
        &self,
        file: &Storage,
        size: u64,
        preallocation: Preallocation,
    ) -> Result<()> {
        if preallocation == Preallocation::Metadata {
            return Err(self.unknown(preallocation));
        }
        preallocation.check_file(file)?;
        let old = file.len();
        // The host rounds nothing.
        size::in_sectors(size).map_err(|why| self.refused(why))?;
        file.set_len(size).await?;
        if size > old
            && let Err(error) = preallocation.reserve(file, old, size - old).await
        {
            file.set_len(old).await?;
            return Err(error);
        }
        Ok(file.flush().await?)
    }

    fn unknown(&self, preallocation: Preallocation) -> Error {
        let mode = preallocation.name();
        self.refused(format!("Unsupported preallocation mode: {mode}"))
    }

    fn refused(&self, why: String) -> Error {
        let file = self.path.clone();
        Error::Image { file, why }
    }
}
