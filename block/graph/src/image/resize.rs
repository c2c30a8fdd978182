//! Changing the size of an image.

use strata_format::{below::Below, qcow2::Preallocation, size};
use strata_storage::{
    Storage,
    error::{Error, Result},
};

use super::{Driver, Image};

impl Image {
    /// As [`Node::resize_with`](crate::Node::resize_with), on `below`. The bitmaps can have that
    /// size.
    pub(crate) async fn resize(
        &self,
        size: u64,
        preallocation: Preallocation,
        below: &dyn Below,
    ) -> Result<()> {
        match &self.driver {
            Driver::Raw(file) => self.resize_raw(file, size, preallocation).await,
            Driver::Qcow2(image) => image.resize_with(size, preallocation, below).await,
            Driver::Qed(_) if preallocation != Preallocation::Off => {
                Err(self.unknown(preallocation))
            }
            Driver::Qed(image) => image.resize(size, below).await,
        }
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
}
