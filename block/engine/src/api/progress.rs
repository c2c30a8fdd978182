//! What Strata says of a job's progress beside the members that QEMU has.

use serde::Serialize;

/// What a job is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobPhase {
    /// It finds out how much there is to be copied.
    Counting,
    /// It copies.
    Copying,
    /// It copies again what the guest has written meanwhile.
    CatchingUp,
    /// All is copied: it waits for the client to complete it.
    Ready,
    /// It waits for `job-finalize`, or for the other jobs of its group.
    Waiting,
    /// It makes durable what it has copied, and the graph follows.
    Finishing,
    /// It gives back what it has taken, after an error or a cancel.
    Undoing,
    /// It is over.
    Ended,
}

/// How far a job has come: members of `query-block-jobs`, `query-jobs` and
/// `X_STRATA_JOB_PROGRESS`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobProgress {
    /// What it is doing.
    pub x_phase: JobPhase,
    /// Bytes to copy in all; `None` until they are counted. What becomes zeros without being
    /// written is not among them. What the guest writes itself, or changes again, changes the sum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x_to_copy: Option<u64>,
    /// Bytes copied so far.
    pub x_copied: u64,
    /// Bytes a second, over the last seconds.
    pub x_rate: u64,
    /// Seconds until all is copied, at that rate; `None` if it cannot be said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x_seconds_left: Option<u64>,
}
