//! Deleting a snapshot.

use strata_storage::error::Result;

use crate::qcow2::{Qcow2, layout::geometry::HostRun};

impl Qcow2 {
    /// Deletes the snapshot with the id `id`, and gives up what only it needs; durable when this
    /// returns. Nothing else uses the image meanwhile.
    ///
    /// # Errors
    /// There is no such snapshot; the host's error.
    pub async fn delete_snapshot(&self, id: &str) -> Result<()> {
        let mut snapshots = self.snapshots().await?;
        let index = snapshots.iter().position(|snapshot| snapshot.id == id);
        let index = index.ok_or_else(|| self.file.refused(format!("no snapshot '{id}'")))?;
        let gone = snapshots.remove(index);
        let g = &self.geometry;
        let l1 = self.read_l1(gone.l1_offset, gone.l1_size).await?;
        let table = HostRun {
            first: g.host_cluster(gone.l1_offset),
            count: g.clusters_for(u64::from(gone.l1_size) * 8),
        };
        // Flags of the active tables are set where references have gone.
        self.begin_snapshot_change(&[&l1, &self.tables.l1_entries()])
            .await?;
        let result = async {
            // From here on nothing names it: its references may be dropped one by one.
            self.write_snapshots(&snapshots).await?;
            self.free_references(&l1).await?;
            self.space.forget_metadata(table);
            self.space.free_later(table);
            self.end_snapshot_change().await
        }
        .await;
        self.give_up(result)
    }
}
