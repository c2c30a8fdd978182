//! What outlives the process of a job: where it began, and what it records of itself.

use strata_storage::error::{Error, IoResult};

use super::{Job, Journal};

impl Job {
    /// All before this byte has been done by an earlier process.
    pub fn goes_on_from(&self) -> u64 {
        self.from
    }

    /// An earlier process has begun it.
    pub fn is_restored(&self) -> bool {
        self.restored
    }

    /// Where it is recorded, if it is.
    pub fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    /// Records how far the job has come, from time to time.
    ///
    /// # Errors
    /// What it has written does not become durable.
    pub(in crate::jobs) async fn note_progress(&self) -> IoResult<()> {
        match &self.journal {
            Some(journal) => journal.note_progress(self, false).await,
            None => Ok(()),
        }
    }

    /// The same, if another process may go on.
    pub(in crate::jobs) async fn note_last_progress(&self) {
        if let Some(journal) = self.journal.as_ref().filter(|_| self.left.get()) {
            // What was recorded before says less, and is right.
            let _ = journal.note_progress(self, true).await;
        }
    }

    /// Records that all data is in place.
    ///
    /// # Errors
    /// It is one of a group, and cannot be recorded: another process would not know what the
    /// others have decided.
    pub(in crate::jobs) async fn decide(&self) -> Result<(), Error> {
        let Some(journal) = &self.journal else {
            return Ok(());
        };
        match journal.decide(self).await {
            Err(error) if self.options.group.is_some() => Err(error),
            _ => Ok(()),
        }
    }

    /// Records what has come of the job, unless another process may go on.
    pub(in crate::jobs) async fn conclude(&self) {
        let left = self.left.get() && self.error().is_some();
        if let Some(journal) = self.journal.as_ref().filter(|_| !left) {
            journal.conclude(self).await;
        }
    }
}
