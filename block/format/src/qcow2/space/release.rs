//! Releasing clusters whose last use has ended (rule W3).

use std::iter;

use strata_storage::error::IoResult;

use super::Space;
use crate::qcow2::layout::geometry::HostRun;

impl Space {
    /// Rule W3: releases clusters whose entries are cleared on disk and that no operation
    /// reads or writes any more.
    ///
    /// # Errors
    /// Refcounts cannot be read or written. What is left waits for the next flush.
    pub async fn release_freed(&self) -> IoResult<()> {
        let mut runs = self.freed.take_releasable().into_iter();
        while let Some(mut run) = runs.next() {
            if let Err(error) = self.release(&mut run).await {
                self.freed.wait_again(iter::once(run).chain(runs));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Releases a run, from which the clusters are taken that have been released.
    async fn release(&self, run: &mut HostRun) -> IoResult<()> {
        self.stop_packing(*run);
        if self.discard {
            self.punch_unshared(*run).await?;
        }
        self.drop_each_reference(run).await
    }

    /// Punches holes where those clusters lie that have no other reference than the
    /// one about to be dropped. They cannot be allocated meanwhile.
    async fn punch_unshared(&self, run: HostRun) -> IoResult<()> {
        let g = &self.geometry;
        for part in self.unshared(run).await? {
            let (offset, len) = (g.host_offset(part.first), part.count * g.cluster_size());
            self.check_data(offset, len)?;
            if let Err(error) = self.file.storage().punch_hole(offset, len).await {
                // The space stays in use on the host; nothing else is lost.
                tracing::warn!(%error, "a freed cluster could not be given back to the host");
            }
        }
        Ok(())
    }
}
