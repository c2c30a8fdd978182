//! What has come of disks' requests (`qapi/block-core.json`: `BlockStats`).

use serde::{Deserialize, Serialize};

use super::CmdError;

/// `query-blockstats`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct QueryBlockstats {
    /// Of layers, rather than of drives: not here.
    pub query_nodes: Option<bool>,
}

impl QueryBlockstats {
    pub(super) fn check(&self) -> Result<(), CmdError> {
        match self.query_nodes {
            Some(true) => Err(CmdError::generic(
                "requests are counted for drives, not for nodes: query-nodes=true is not supported",
            )),
            _ => Ok(()),
        }
    }
}

/// `block-latency-histogram-set`. Boundaries are nanoseconds, ascending from above 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BlockLatencyHistogramSet {
    /// The id or path of the device.
    pub id: String,
    /// For reads, writes and flushes; with none of all these the histograms go.
    pub boundaries: Option<Vec<u64>>,
    /// For reads.
    pub boundaries_read: Option<Vec<u64>>,
    /// For writes.
    pub boundaries_write: Option<Vec<u64>>,
    /// For flushes.
    pub boundaries_flush: Option<Vec<u64>>,
}

/// `BlockStats`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockStats {
    /// The disk's id.
    pub device: String,
    /// The path of the device whose drive it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qdev: Option<String>,
    /// The top layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The numbers.
    pub stats: BlockDeviceStats,
}

/// `BlockDeviceStats`. Times are nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[allow(missing_docs)] // The schema's.
pub struct BlockDeviceStats {
    pub rd_bytes: u64,
    pub wr_bytes: u64,
    pub unmap_bytes: u64,
    pub rd_operations: u64,
    pub wr_operations: u64,
    pub flush_operations: u64,
    pub unmap_operations: u64,
    pub rd_total_time_ns: u64,
    pub wr_total_time_ns: u64,
    pub flush_total_time_ns: u64,
    pub unmap_total_time_ns: u64,
    pub wr_highest_offset: u64,
    pub rd_merged: u64,
    pub wr_merged: u64,
    pub unmap_merged: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_time_ns: Option<u64>,
    pub failed_rd_operations: u64,
    pub failed_wr_operations: u64,
    pub failed_flush_operations: u64,
    pub failed_unmap_operations: u64,
    pub invalid_rd_operations: u64,
    pub invalid_wr_operations: u64,
    pub invalid_flush_operations: u64,
    pub invalid_unmap_operations: u64,
    pub account_invalid: bool,
    pub account_failed: bool,
    pub timed_stats: [(); 0],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rd_latency_histogram: Option<LatencyHistogram>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wr_latency_histogram: Option<LatencyHistogram>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flush_latency_histogram: Option<LatencyHistogram>,
    /// How long each step of a job, of any disk, has held the thread that requests run on. QEMU has
    /// no such member.
    #[serde(rename = "x-job-hold-histogram")]
    pub job_hold: LatencyHistogram,
}

/// `BlockLatencyHistogramInfo`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LatencyHistogram {
    /// Nanoseconds, ascending.
    pub boundaries: Vec<u64>,
    /// How many took less than the first, from each to less than the next, and the rest.
    pub bins: Vec<u64>,
}
