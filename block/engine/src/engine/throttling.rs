//! `block_set_io_throttle`: what a guest may ask of a disk in a second.

use std::rc::Rc;

use strata_graph::{Backend, Limit, Limits, ThrottleGroup, ThrottleLimits, Throttling};

use super::Engine;
use crate::api::{BlockSetIoThrottle, CmdError, DriveName, ThrottleInfo};

impl Engine {
    /// Sets the limits of a disk, and of all that share them, or takes the disk out of its group
    /// where all are 0.
    pub(super) fn set_io_throttle(&self, cmd: &BlockSetIoThrottle) -> Result<(), CmdError> {
        let name = match (&cmd.device, &cmd.id) {
            (Some(device), _) => DriveName::Device(device.clone()),
            (None, id) => DriveName::Id(id.clone().unwrap_or_default()),
        };
        let backend = self.find_drive(&name)?;
        let limits = limits(cmd);
        limits.check().map_err(CmdError::generic)?;
        let former = backend
            .throttle_group()
            .map(|group| group.name().to_owned());
        let throttling = Throttling {
            limits,
            group: cmd.group.clone().or(former),
        };
        self.throttle(&backend, &throttling);
        Ok(())
    }

    /// Has the device's requests keep to limits.
    pub(super) fn throttle(&self, backend: &Rc<Backend>, throttling: &Throttling) {
        let Throttling { limits, group } = throttling;
        if !limits.is_set() {
            return backend.set_throttle_group(None);
        }
        let id = &backend.options().id;
        let group = self.throttle_group(group.as_ref().unwrap_or(id));
        let former = backend.throttle_group();
        if !former.is_some_and(|former| Rc::ptr_eq(&former, &group)) {
            backend.set_throttle_group(Some(&group));
        }
        group.set_limits(*limits);
    }

    /// The group of this name, which is there as long as it has members.
    fn throttle_group(&self, name: &str) -> Rc<ThrottleGroup> {
        let backends = self.backends.borrow();
        let mut groups = backends
            .iter()
            .filter_map(|backend| backend.throttle_group());
        groups
            .find(|group| group.name() == name)
            .unwrap_or_else(|| ThrottleGroup::new(self.exec.clone(), name.to_owned()))
    }
}

/// The limits that a command asks for.
fn limits(cmd: &BlockSetIoThrottle) -> ThrottleLimits {
    let limit = |average, burst: Option<u64>, seconds: Option<u64>| Limit {
        average,
        burst: burst.unwrap_or(0),
        burst_seconds: seconds.unwrap_or(1),
    };
    ThrottleLimits {
        bytes: Limits {
            total: limit(cmd.bps, cmd.bps_max, cmd.bps_max_length),
            read: limit(cmd.bps_rd, cmd.bps_rd_max, cmd.bps_rd_max_length),
            write: limit(cmd.bps_wr, cmd.bps_wr_max, cmd.bps_wr_max_length),
        },
        requests: Limits {
            total: limit(cmd.iops, cmd.iops_max, cmd.iops_max_length),
            read: limit(cmd.iops_rd, cmd.iops_rd_max, cmd.iops_rd_max_length),
            write: limit(cmd.iops_wr, cmd.iops_wr_max, cmd.iops_wr_max_length),
        },
        request_size: cmd.iops_size.unwrap_or(0),
    }
}

/// What `query-block` says of a disk in the group called `group`.
pub(super) fn throttle_info(group: &str, limits: &ThrottleLimits) -> ThrottleInfo {
    let given = |value: u64| (value > 0).then_some(value);
    let burst = |limit: Limit| given(limit.burst);
    let length = |limit: Limit| burst(limit).map(|_| limit.burst_seconds);
    let (bytes, requests) = (&limits.bytes, &limits.requests);
    ThrottleInfo {
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
