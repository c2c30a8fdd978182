//! Writing tables back, in the order that survives a crash at any moment.
//!
//! All that is dirty is copied at one moment; changes made later wait for the next time. Then:
//! 0. An external data file is flushed: the data that L2 entries name is durable (W1).
//! 1. Refcount blocks are written. If the refcount table names new blocks: flush, then the table
//!    (W4).
//! 2. Flush: data, old data that copy-on-write filled in (W1), refcounts (W2) and new L2 tables as
//!    they were made, empty or copied (W4), are durable.
//! 3. L2 slices and L1 are written.
//! 4. Flush. What was cleared in the tables may be freed now (W3).
//!
//! Refcounts that went down were lowered in memory after step 4 of an earlier round, so a refcount
//! block may be written at any time.
//!
//! With lazy refcounts step 1 leaves out the blocks' changes. The dirty bit, durable before the
//! first of them, says that refcounts have to be counted anew after a crash.

use strata_storage::error::IoResult;

use super::Order;
use crate::qcow2::{space::SpaceBatch, tables::TablesBatch};

impl Order {
    /// Makes everything durable that was acknowledged before the call.
    ///
    /// # Errors
    /// The host's error. After an error of metadata the image is not written any more (rule W6).
    pub async fn flush(&self) -> IoResult<()> {
        if self.file.is_read_only() {
            return Ok(());
        }
        self.file.check_running()?;
        // Flushes are shared by those who wait for them.
        let wanted = self.started.get() + 1;
        let excluded = self.file.exclude_tables().await;
        if self.done.get() >= wanted {
            return Ok(());
        }
        self.file.check_running()?;
        let number = self.started.get() + 1;
        self.started.set(number);
        self.write_tables(true).await?;
        self.done.set(number);
        drop(excluded);
        self.space.release_freed().await
    }

    /// Writes all tables back if the cache of L2 tables has no room for more changes.
    pub async fn make_room(&self) -> IoResult<()> {
        if !self.tables.is_crowded() {
            return Ok(());
        }
        let _excluded = self.file.exclude_tables().await;
        self.file.check_running()?;
        if !self.tables.is_crowded() {
            return Ok(());
        }
        self.write_tables(false).await
    }

    /// Steps 0 to 3, and with `durable` step 4. The caller excludes others.
    async fn write_tables(&self, durable: bool) -> IoResult<()> {
        // Nothing is missed: no await lies in between.
        let (space, tables) = (self.space.take_dirty(), self.tables.take_dirty());
        match self.write_batches(&space, &tables, durable).await {
            Ok(()) => {
                self.tables.written(&tables);
                self.space.written(space, durable);
                Ok(())
            }
            Err(error) => {
                self.tables.restore(tables);
                self.space.restore(space);
                self.file.stop_after(&error);
                Err(error)
            }
        }
    }

    async fn write_batches(
        &self,
        space: &SpaceBatch,
        tables: &TablesBatch,
        durable: bool,
    ) -> IoResult<()> {
        self.file.flush_external_data().await?;
        self.space.write(space).await?;
        if !tables.is_empty() {
            self.file.flush().await?;
            self.tables.write(tables).await?;
        }
        if durable {
            self.file.flush().await?;
        }
        Ok(())
    }
}
