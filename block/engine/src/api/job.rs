//! Arguments of the commands about jobs (`qapi/block-core.json`, `qapi/job.json`).

use serde::{Deserialize, Serialize};

use super::number;

/// A job, for the commands of block jobs that call it by `device`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BlockJobRef {
    /// The job's id.
    pub device: String,
}

/// A job, for the other commands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct JobRef {
    /// The job's id.
    pub id: String,
}

/// `block-job-cancel`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BlockJobCancel {
    /// The job's id.
    pub device: String,
    /// Even if the user has paused the job; not then if `None`.
    pub force: Option<bool>,
}

/// `block-job-set-speed`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BlockJobSetSpeed {
    /// The job's id.
    pub device: String,
    /// Bytes a second, 0 for no limit.
    #[serde(deserialize_with = "number::speed")]
    pub speed: u64,
}

/// `commit`, which HMP has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CommitDisk {
    /// The disk, or `all`.
    pub device: String,
}
