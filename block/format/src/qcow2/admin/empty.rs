//! Giving up all that an image holds, so that its disk shows what lies below.

use strata_storage::error::IoResult;

use crate::qcow2::Qcow2;

/// The L2 tables that the active disk had.
pub struct DroppedTables(Vec<u64>);

impl Qcow2 {
    /// Gives up all clusters and L2 tables of the active disk; internal snapshots keep theirs.
    /// Nothing else uses the image meanwhile. At last the file is cut.
    ///
    /// # Errors
    /// The host's error, or that the tables are corrupt. What is left shows the same as before.
    pub async fn make_empty(&self) -> IoResult<()> {
        let dropped = self.drop_all_tables().await?;
        self.free_dropped(dropped).await
    }

    /// Has the active disk hold nothing any more: L1 is cleared, durably. That takes no longer than
    /// L1 is long. What was there still takes its room. Nothing else uses the image meanwhile.
    ///
    /// # Errors
    /// As [`Qcow2::make_empty`].
    pub async fn drop_all_tables(&self) -> IoResult<DroppedTables> {
        self.file.begin_write().await?;
        // From now on no table in memory differs from the file.
        self.flush().await?;
        let l1 = self.tables.l1_entries();
        for index in 0..self.tables.l1_len() {
            if let Some(table) = self.tables.l1_entry(index)? {
                self.tables.clear_l1_entry(index, table).await;
            }
        }
        self.flush().await?;
        Ok(DroppedTables(l1))
    }

    /// Frees what the tables lead to. L1 has been cleared on disk, so that none of it is in use
    /// when it can be used again (rule W3). At last the file is cut. Nothing else uses the image
    /// meanwhile.
    ///
    /// # Errors
    /// As [`Qcow2::make_empty`]: room is lost then.
    pub async fn free_dropped(&self, dropped: DroppedTables) -> IoResult<()> {
        self.free_references(&dropped.0).await?;
        // Once for what has become free, once for its refcounts.
        self.flush().await?;
        self.flush().await?;
        self.cut_file().await
    }
}
