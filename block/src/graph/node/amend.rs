//! Changing the options of a layer's image.

use super::{Driver, Node};
use crate::{
    error::{Error, Result},
    qcow2::{self, Amend, OpenOptions},
};

impl Node {
    /// Changes options of the layer's image. Nothing else uses the layer meanwhile, and it is not
    /// used any more afterwards: what it knows of its image is not true any more. `progress` is told
    /// how much of the work is done.
    ///
    /// # Errors
    /// The format has no options to change; what cannot be had; the host's error.
    pub async fn amend(&self, changes: &Amend, progress: &dyn Fn(u64, u64)) -> Result<()> {
        self.check_writable()?;
        let Driver::Qcow2(image) = &self.driver else {
            let format = self.format();
            return Err(Error::Image {
                file: self.path.clone(),
                why: format!("Format driver '{format}' does not support option amendment"),
            });
        };
        image.close().await?;
        let options = OpenOptions::default();
        let data = image.external_data();
        qcow2::amend(image.file(), data, options, changes, self, progress).await
    }
}
