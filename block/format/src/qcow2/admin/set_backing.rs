//! The backing file that the header names.

use strata_storage::error::Result;

use crate::{
    backing::Backing,
    qcow2::{Qcow2, file::ImageFile, layout::header_area::HeaderArea},
};

impl Qcow2 {
    /// Changes the backing file that the header names, once everything else is durable. After an
    /// error of the host the image is not written any more.
    ///
    /// # Errors
    /// The name does not fit; the image is read-only; the host's error.
    pub async fn set_backing(&self, backing: Option<Backing>) -> Result<()> {
        if backing.is_some() && self.file.has_raw_data() {
            let why = "has a raw external data file, so it cannot have a backing file";
            return Err(self.file.refused(why));
        }
        self.file.begin_write().await?;
        let change = |area: &mut HeaderArea| area.set_backing(backing.as_ref());
        self.order.change_area(change, ImageFile::stop_after).await
    }
}
