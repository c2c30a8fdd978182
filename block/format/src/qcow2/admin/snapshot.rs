//! Internal snapshots: the disk as it was at some moment, kept in the same file.
//!
//! A snapshot is an L1 table of its own. Everything that the table leads to has one reference more,
//! so nothing of it is ever written in place or freed. The order of writes keeps two things true at
//! any moment: a refcount is never too low, and a COPIED flag of the active tables stands only
//! where there is a single reference. What a crash leaves besides is space that is lost, and flags
//! that are missing; neither harms. In version 3 the dirty bit is set meanwhile, so that the next
//! program that opens the image sets both right.

mod apply;
mod complete;
mod create;
mod delete;
mod references;
mod show;
mod table;

pub(in crate::qcow2) use references::Table;
pub use table::Snapshot;

use strata_storage::error::{Error, Result};

use crate::qcow2::{Qcow2, layout::header::Incompatible};

/// L2 tables that are given up between two flushes: bounds how many clusters wait to be freed.
const TABLES_PER_FLUSH: usize = 64;

impl Qcow2 {
    /// Before snapshots are changed: refuses what cannot have any, and images where what one of
    /// `tables`, L1 tables, leads to is damaged; and sets the dirty bit in version 3. All that was
    /// written so far is durable.
    pub(in crate::qcow2) async fn begin_snapshot_change(&self, tables: &[&[u64]]) -> Result<()> {
        let incompatible = self.file.area().header.incompatible;
        if incompatible.contains(Incompatible::DATA_FILE) {
            let why = "keeps its data in an external data file: it cannot have internal snapshots";
            return Err(self.file.refused(why));
        }
        self.file.begin_write().await?;
        self.flush().await?;
        for l1 in tables {
            self.check_references(l1).await?;
        }
        if self.geometry.version > 2 {
            self.order.mark_dirty(true).await?;
        }
        Ok(())
    }

    /// After snapshots were changed: everything is right again, and durable.
    pub(in crate::qcow2) async fn end_snapshot_change(&self) -> Result<()> {
        // Once for the tables, once for the refcounts of what has become free.
        self.flush().await?;
        self.flush().await?;
        self.update_copied_flags().await?;
        if !self.file.is_lazy() {
            self.order.mark_dirty(false).await?;
        }
        Ok(())
    }

    /// Half-way through a change nothing more is written (rule W6): what refcounts there are has to
    /// be counted anew.
    pub(in crate::qcow2) fn give_up<T>(&self, result: Result<T>) -> Result<T> {
        if let Err(Error::Io(error)) = &result {
            self.file.stop(error);
        }
        result
    }
}
