//! Another version of the format.

use strata_storage::error::Result;

use crate::qcow2::{
    Qcow2,
    file::ImageFile,
    layout::{
        header::{Incompatible, V2_LEN},
        header_area::HeaderArea,
    },
};

impl Qcow2 {
    /// Makes the image one of version 3. It has to be opened anew then.
    ///
    /// # Errors
    /// The header has no room; the host's error: the image is of version 2 then.
    pub(super) async fn upgrade(&self) -> Result<()> {
        self.file.begin_write().await?;
        self.complete_snapshots().await?;
        self.close().await?;
        self.order
            .change_area(|area| area.set_version(3), ImageFile::stop_after)
            .await
    }

    /// Whether the image can become one of version 2 with refcounts of 16 bits, as far as its
    /// snapshots' sizes are not in the way.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn check_downgrade(&self) -> Result<()> {
        if self.geometry.external_data {
            return Err(self
                .file
                .refused("Cannot downgrade an image with a data file"));
        }
        let features = self.file.area().header.incompatible;
        let harmless = Incompatible::DIRTY | Incompatible::COMPRESSION;
        let others = features.difference(harmless);
        if !others.is_empty() {
            let bits = others.bits();
            return Err(self.file.refused(format!(
                "Cannot downgrade an image with incompatible features {bits:#x} set"
            )));
        }
        if self.has_stored_bitmaps() {
            return Err(self.file.refused(
                "has dirty bitmaps, which version 2 does not keep up to date: remove them first (bitmap --remove)",
            ));
        }
        if features.contains(Incompatible::COMPRESSION) && self.has_compressed_clusters().await? {
            return Err(self.file.refused(
                "Cannot downgrade an image with zstd compression type and existing compressed clusters",
            ));
        }
        Ok(())
    }

    /// Whether version 2 can say all of snapshots, which have the disk's size there.
    ///
    /// # Errors
    /// It cannot.
    pub(super) async fn check_snapshot_sizes(&self) -> Result<()> {
        let size = self.virtual_size();
        let snapshots = self.snapshots().await?;
        let fits = |state: u64, disk: Option<u64>| {
            state <= u64::from(u32::MAX) && disk.is_none_or(|disk| disk == size)
        };
        if snapshots.iter().all(|s| fits(s.vm_state_size, s.disk_size)) {
            return Ok(());
        }
        Err(self
            .file
            .refused("Internal snapshots prevent downgrade of image"))
    }

    /// Makes the image one of version 2, once [`Qcow2::check_downgrade`] has found nothing against
    /// it. Nothing is done with it here then.
    ///
    /// # Errors
    /// Snapshots are in the way; the host's error: the image is of version 3 then.
    pub(super) async fn downgrade(&self, progress: &dyn Fn(u64, u64)) -> Result<()> {
        self.check_snapshot_sizes().await?;
        self.file.begin_write().await?;
        self.replace_zero_clusters(progress).await?;
        self.close().await?;
        self.order
            .change_area(|area| area.set_version(2), ImageFile::stop_after)
            .await
    }
}

impl HeaderArea {
    /// Writes the header as one of version 2 or 3. In version 2 it says nothing of features: there
    /// must be none but those that do not matter any more.
    fn set_version(&mut self, version: u32) -> std::result::Result<(), String> {
        self.header.set_version(version);
        self.extensions.drop_feature_names();
        if version > 2 {
            self.extensions.add_feature_names();
        }
        debug_assert!(version > 2 || self.header.len() == V2_LEN as usize);
        let backing = self.backing();
        self.set_backing(backing.as_ref())
    }
}
