//! Throttling: how it is set and shown (`qapi/block-core.json`: `BlockIOThrottle`,
//! `BlockDeviceInfo`).

use serde::{Deserialize, Serialize};

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
        Ok(())
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
