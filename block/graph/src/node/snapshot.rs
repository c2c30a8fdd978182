//! Internal snapshots: what changes the bytes that a layer shows.

use strata_storage::error::Result;

use super::Node;

impl Node {
    /// Gives the layer the content and the size of its internal snapshot `id`, as
    /// [`Qcow2::apply_snapshot`](strata_format::qcow2::Qcow2::apply_snapshot), and records all of
    /// it as changed. Nothing else uses the layer meanwhile.
    ///
    /// # Errors
    /// The layer is read-only, or of another format; as that function.
    pub async fn apply_snapshot(&self, id: &str) -> Result<()> {
        let _changing = self.changing()?;
        let applied = self.image.apply_snapshot(id).await;
        self.update_size();
        // After an error the disk is as it was, or the image has stopped, and stores no bitmaps.
        applied?;
        Ok(self.record_all().await?)
    }
}
