//! Allocating clusters that have to lie side by side: for tables that a single offset names.

use super::{Qcow2, geometry::HostRun};
use crate::error::IoResult;

impl Qcow2 {
    /// Allocates `count` (at least 1) adjacent clusters, as [`Qcow2::allocate`] does.
    ///
    /// # Errors
    /// As of that; and there can be no such run, because more clusters are asked for than lie
    /// between two refcount blocks. Nothing is allocated then.
    pub(super) async fn allocate_adjacent(&self, count: u64) -> IoResult<HostRun> {
        let most = self.geometry.refcounts_per_block() - 1;
        if count > most {
            return Err(self.unsupported(format!(
                "a table of {count} adjacent clusters (at most {most} with clusters of this size)"
            )));
        }
        let mut passed = Vec::new();
        let result = self.find_adjacent(count, &mut passed).await;
        // Too short, so they stay for others.
        for run in passed {
            self.drop_references(run).await?;
        }
        result
    }

    /// Takes free clusters until `count` of them are adjacent; `passed` are those that are not.
    async fn find_adjacent(&self, count: u64, passed: &mut Vec<HostRun>) -> IoResult<HostRun> {
        let mut found: Option<HostRun> = None;
        loop {
            let missing = count - found.map_or(0, |run| run.count);
            let next = match self.allocate(missing).await {
                Ok(next) => next.run,
                Err(error) => {
                    passed.extend(found);
                    return Err(error);
                }
            };
            let run = match found {
                Some(run) if run.end() == next.first => HostRun {
                    first: run.first,
                    count: run.count + next.count,
                },
                other => {
                    passed.extend(other);
                    next
                }
            };
            if run.count == count {
                return Ok(run);
            }
            found = Some(run);
        }
    }
}
