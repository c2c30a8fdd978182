//! `X_STRATA_JOB_PROGRESS`: how far each job is, once a second, for the clients that have asked for
//! it with `x-strata-job-progress`.
//!
//! The monitor asks the machine, as a client would: so a job that has come to a standstill is
//! reported, too.

use std::time::{Duration, Instant};

use strata_block::api::{CmdError, JobInfo, JobStatus, Reply};

const INTERVAL: Duration = Duration::from_secs(1);

/// When the machine is asked.
#[derive(Debug, Default)]
pub(super) struct Ticker {
    last: Option<Instant>,
    /// The machine owes an answer.
    asked: bool,
}

impl Ticker {
    /// When the machine is to be asked next; `None` if it has been.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let due = self.last.map_or(now, |last| last + INTERVAL);
        (!self.asked).then_some(due)
    }

    /// Whether the machine is to be asked now. It has been, then.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.next_due(now).is_some_and(|due| due <= now);
        if is_due {
            (self.last, self.asked) = (Some(now), true);
        }
        is_due
    }

    /// The jobs that the answer to `query-jobs` says are not over.
    pub(super) fn answered(&mut self, result: Result<Reply, CmdError>) -> Vec<JobInfo> {
        self.asked = false;
        match result {
            Ok(Reply::Jobs(mut jobs)) => {
                jobs.retain(|job| job.status != JobStatus::Concluded);
                jobs
            }
            // A machine that is ending.
            _ => Vec::new(),
        }
    }
}
