//! Throttling: how it is set and shown (`qapi/block-core.json`: `BlockIOThrottle`,
//! `BlockDeviceInfo`).

use serde::{Deserialize, Serialize};
use strata_graph::{Limit, Limits, ThrottleLimits};

use super::{CmdError, number};

/// `block_set_io_throttle`. Rates are bytes or requests a second, 0 for no limit; lengths are
/// seconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockSetIoThrottle {
    /// The disk's id; this or `id` must be given.
    pub device: Option<String>,
    /// The id or path of the device whose drive it is.
    pub id: Option<String>,
    /// Bytes read and written.
    #[serde(deserialize_with = "number::speed")]
    pub bps: u64,
    /// Bytes read.
    #[serde(deserialize_with = "number::speed")]
    pub bps_rd: u64,
    /// Bytes written.
    #[serde(deserialize_with = "number::speed")]
    pub bps_wr: u64,
    /// Requests.
    #[serde(deserialize_with = "number::speed")]
    pub iops: u64,
    /// Reads.
    #[serde(deserialize_with = "number::speed")]
    pub iops_rd: u64,
    /// Writes.
    #[serde(deserialize_with = "number::speed")]
    pub iops_wr: u64,
    /// `bps` in a burst.
    #[serde(default, deserialize_with = "number::speed_if_given")]
    pub bps_max: Option<u64>,
    /// `bps_rd` in a burst.
    #[serde(default, deserialize_with = "number::speed_if_given")]
    pub bps_rd_max: Option<u64>,
    /// `bps_wr` in a burst.
    #[serde(default, deserialize_with = "number::speed_if_given")]
    pub bps_wr_max: Option<u64>,
    /// `iops` in a burst.
    #[serde(default, deserialize_with = "number::speed_if_given")]
    pub iops_max: Option<u64>,
    /// `iops_rd` in a burst.
    #[serde(default, deserialize_with = "number::speed_if_given")]
    pub iops_rd_max: Option<u64>,
    /// `iops_wr` in a burst.
    #[serde(default, deserialize_with = "number::speed_if_given")]
    pub iops_wr_max: Option<u64>,
    /// How long `bps_max` may last.
    #[serde(default, deserialize_with = "number::speed_if_given")]
    pub bps_max_length: Option<u64>,
    /// How long `bps_rd_max` may last.
    #[serde(default, deserialize_with = "number::speed_if_given")]
    pub bps_rd_max_length: Option<u64>,
    /// How long `bps_wr_max` may last.
    #[serde(default, deserialize_with = "number::speed_if_given")]
    pub bps_wr_max_length: Option<u64>,
    /// How long `iops_max` may last.
    #[serde(default, deserialize_with = "number::speed_if_given")]
    pub iops_max_length: Option<u64>,
    /// How long `iops_rd_max` may last.
    #[serde(default, deserialize_with = "number::speed_if_given")]
    pub iops_rd_max_length: Option<u64>,
    /// How long `iops_wr_max` may last.
    #[serde(default, deserialize_with = "number::speed_if_given")]
    pub iops_wr_max_length: Option<u64>,
    /// A longer request counts for several, one for each of so many bytes.
    #[serde(default, deserialize_with = "number::speed_if_given")]
    pub iops_size: Option<u64>,
    /// The group that shares the limits; the disk's, or one of its own, if `None`.
    pub group: Option<String>,
}

impl BlockSetIoThrottle {
    pub(super) fn check(&self) -> Result<(), CmdError> {
        if self.device.is_some() == self.id.is_some() {
            return Err(CmdError::generic("Need exactly one of 'device' and 'id'"));
        }
        self.limits().check().map_err(CmdError::generic)
    }

    /// The limits.
    pub fn limits(&self) -> ThrottleLimits {
        let limit = |average, burst: Option<u64>, seconds: Option<u64>| Limit {
            average,
            burst: burst.unwrap_or(0),
            burst_seconds: seconds.unwrap_or(1),
        };
        ThrottleLimits {
            bytes: Limits {
                total: limit(self.bps, self.bps_max, self.bps_max_length),
                read: limit(self.bps_rd, self.bps_rd_max, self.bps_rd_max_length),
                write: limit(self.bps_wr, self.bps_wr_max, self.bps_wr_max_length),
            },
            requests: Limits {
                total: limit(self.iops, self.iops_max, self.iops_max_length),
                read: limit(self.iops_rd, self.iops_rd_max, self.iops_rd_max_length),
                write: limit(self.iops_wr, self.iops_wr_max, self.iops_wr_max_length),
            },
            request_size: self.iops_size.unwrap_or(0),
        }
    }
}

/// A disk's limits as `query-block` shows them, under the names of [`BlockSetIoThrottle`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub struct ThrottleInfo {
    pub bps: u64,
    pub bps_rd: u64,
    pub bps_wr: u64,
    pub iops: u64,
    pub iops_rd: u64,
    pub iops_wr: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bps_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bps_rd_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bps_wr_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops_rd_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops_wr_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bps_max_length: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bps_rd_max_length: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bps_wr_max_length: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops_max_length: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops_rd_max_length: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops_wr_max_length: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

impl ThrottleInfo {
    /// Of a disk in the group called `group`.
    pub fn new(group: &str, limits: &ThrottleLimits) -> Self {
        let given = |value: u64| (value > 0).then_some(value);
        let burst = |limit: Limit| given(limit.burst);
        let length = |limit: Limit| burst(limit).map(|_| limit.burst_seconds);
        let (bytes, requests) = (&limits.bytes, &limits.requests);
        Self {
            bps: bytes.total.average,
            bps_rd: bytes.read.average,
            bps_wr: bytes.write.average,
            iops: requests.total.average,
            iops_rd: requests.read.average,
            iops_wr: requests.write.average,
            bps_max: burst(bytes.total),
            bps_rd_max: burst(bytes.read),
            bps_wr_max: burst(bytes.write),
            iops_max: burst(requests.total),
            iops_rd_max: burst(requests.read),
            iops_wr_max: burst(requests.write),
            bps_max_length: length(bytes.total),
            bps_rd_max_length: length(bytes.read),
            bps_wr_max_length: length(bytes.write),
            iops_max_length: length(requests.total),
            iops_rd_max_length: length(requests.read),
            iops_wr_max_length: length(requests.write),
            iops_size: given(limits.request_size),
            group: Some(group.to_owned()),
        }
    }
}
