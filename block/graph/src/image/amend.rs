//! Changing the options of an image.

use strata_format::{
    below::Below,
    qcow2::{self, Amend, OpenOptions},
};
use strata_storage::error::Result;

use super::{Driver, Image};

impl Image {
    /// Changes options of the image, which lies on `below`. Nothing else uses it meanwhile, and it
    /// is not used any more afterwards: what it knows of its file is not true any more. `progress`
    /// is called with how much of the work is done.
    ///
    /// # Errors
    /// The format has no options to change; what cannot be had; the host's error.
    pub async fn amend(
        &self,
        changes: &Amend,
        below: &dyn Below,
        progress: &dyn Fn(u64, u64),
    ) -> Result<()> {
        let Driver::Qcow2(image) = &self.driver else {
            let format = self.format();
            return Err(self.refused(format!(
                "Format driver '{format}' does not support option amendment"
            )));
        };
        image.close().await?;
        let options = OpenOptions::default();
        let data = image.external_data();
        qcow2::amend(image.file(), data, options, changes, below, progress).await
    }
}
