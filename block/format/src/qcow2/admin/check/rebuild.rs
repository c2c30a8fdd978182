//! Counting refcounts anew in an image that was not closed cleanly, before it is written again.
//!
//! The tables say what is in use; the refcounts are set in place to what they say. Memory is
//! bounded by counting a window of the file at a time. Until the end the image stays marked dirty,
//! so that after a crash this starts again.

use strata_exec::{mem::to_usize, yield_now};
use strata_storage::error::{Error, Result};

use super::Check;
use crate::qcow2::{Qcow2, layout::geometry::HostCluster, space::RefcountUpdate};

/// Clusters that are counted at a time: 16 MiB of counters.
const WINDOW: u64 = 4 << 20;

impl Qcow2 {
    /// Sets all refcounts and COPIED flags right and clears the dirty bit.
    ///
    /// # Errors
    /// What else is wrong with the image: then it has to be repaired first. The host's error.
    pub(in crate::qcow2) async fn rebuild_refcounts(&self) -> Result<()> {
        let file = self.file.storage().path();
        tracing::info!(file = %file.display(), "was not closed cleanly: counting its refcounts anew");
        let end = self.geometry.clusters_for(self.file.storage().len());
        for start in (0..end).step_by(to_usize(WINDOW)) {
            let mut check = Check::new(self, start..start + WINDOW);
            check.count_all().await?;
            if check.report.corruptions + check.report.check_errors > 0 {
                let first = check.report.lines.first().cloned().unwrap_or_default();
                return Err(self.needs_repair(&first));
            }
            check.set_refcounts(start..end.min(start + WINDOW)).await?;
        }
        self.space.search_from_start();
        self.update_copied_flags().await?;
        Ok(self.order.mark_dirty(false).await?)
    }

    fn needs_repair(&self, what: &str) -> Error {
        Error::Image {
            file: self.file.storage().path().to_owned(),
            why: format!(
                "was not closed cleanly and is damaged ({what}): repair it with 'strata-img check -r all' first"
            ),
        }
    }
}

impl Check<'_> {
    /// Sets the refcounts of these clusters, in memory, to the references counted.
    async fn set_refcounts(&mut self, clusters: std::ops::Range<u64>) -> Result<()> {
        let image = self.image;
        for cluster in clusters {
            let references = self.counts.get(cluster);
            match image
                .space
                .set_refcount(HostCluster(cluster), references)
                .await?
            {
                RefcountUpdate::Done => {}
                RefcountUpdate::Unused if references == 0 => continue,
                RefcountUpdate::Unused => {
                    let what = format!("cluster {cluster} has no refcount");
                    return Err(image.needs_repair(&what));
                }
                RefcountUpdate::AtMaximum => {
                    let what = format!("cluster {cluster} has {references} references");
                    return Err(image.needs_repair(&what));
                }
            }
            if cluster % 1024 == 0 {
                yield_now().await;
            }
        }
        Ok(())
    }
}
