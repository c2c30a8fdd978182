//! Giving up all that an image holds, so that its disk shows what lies below.

use strata_exec::yield_now;
use strata_storage::error::IoResult;

use crate::qcow2::{Qcow2, admin::resize::TABLES_PER_FLUSH};

impl Qcow2 {
    /// Gives up all clusters and L2 tables of the active disk; internal snapshots keep theirs.
    /// Nothing else uses the image meanwhile. A table goes as a whole: L1 is cleared on disk before
    /// any of its clusters can be used again (rule W3). At last the file is cut.
    ///
    /// # Errors
    /// The host's error, or that the tables are corrupt. What is left shows the same as before.
    pub async fn make_empty(&self) -> IoResult<()> {
        self.file.begin_write().await?;
        // From now on no table in memory differs from the file.
        self.flush().await?;
        let mut dropped = 0;
        for index in 0..self.tables.l1_len() {
            let Some(table) = self.tables.l1_entry(index)? else {
                continue;
            };
            self.tables.drop_table(index, table).await?;
            dropped += 1;
            if dropped % TABLES_PER_FLUSH == 0 {
                self.flush().await?;
            }
            yield_now().await;
        }
        // Once for L1, once for the refcounts of what has become free.
        self.flush().await?;
        self.flush().await?;
        self.cut_file().await
    }
}
