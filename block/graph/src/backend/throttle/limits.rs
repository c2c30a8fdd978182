//! What a user may set, in the words and with the checks of QEMU's throttling.

/// The largest average or burst rate.
const MAX_RATE: u64 = 1_000_000_000_000_000;

/// One limit. Units are bytes or requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Units a second in the long run; 0: no limit.
    pub average: u64,
    /// Units a second in a burst; 0: bursts of a tenth of a second at any rate.
    pub burst: u64,
    /// Seconds that a burst may last at its rate.
    pub burst_seconds: u64,
}

impl Default for Limit {
    fn default() -> Self {
        Self {
            average: 0,
            burst: 0,
            burst_seconds: 1,
        }
    }
}

/// Limits for reads and writes together, or for each of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of both.
    pub total: Limit,
    /// Of reads.
    pub read: Limit,
    /// Of writes, and of writes of zeroes.
    pub write: Limit,
}

/// All limits of a group of disks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThrottleLimits {
    /// Bytes.
    pub bytes: Limits,
    /// Requests.
    pub requests: Limits,
    /// A longer request counts for several, one for each of so many bytes; 0: it counts for one.
    pub request_size: u64,
}

/// What a user has set for one disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Throttling {
    /// The limits.
    pub limits: ThrottleLimits,
    /// The group that shares them; one that is called as the disk if `None`.
    pub group: Option<String>,
}

impl Limits {
    pub(super) fn all(&self) -> [Limit; 3] {
        [self.total, self.read, self.write]
    }

    fn conflict(&self, value: impl Fn(Limit) -> u64) -> bool {
        value(self.total) > 0 && (value(self.read) > 0 || value(self.write) > 0)
    }
}

impl ThrottleLimits {
    /// Whether anything is limited.
    pub fn is_set(&self) -> bool {
        self.all().any(|limit| limit.average > 0)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = Limit> + use<> {
        self.bytes.all().into_iter().chain(self.requests.all())
    }

    /// Whether the limits go together.
    ///
    /// # Errors
    /// Why not, in QEMU's words.
    pub fn check(&self) -> Result<(), String> {
        let conflict = |limits: &Limits| {
            limits.conflict(|limit| limit.average) || limits.conflict(|limit| limit.burst)
        };
        if conflict(&self.bytes) || conflict(&self.requests) {
            return Err(
                "bps/iops/max total values and read/write values cannot be used at the \
                        same time"
                    .to_owned(),
            );
        }
        let limits_requests = self.requests.all().iter().any(|limit| limit.average > 0);
        if self.request_size > 0 && !limits_requests {
            return Err("iops size requires an iops value to be set".to_owned());
        }
        self.all().try_for_each(Limit::check)
    }
}

impl Limit {
    fn check(self) -> Result<(), String> {
        let why = if self.average > MAX_RATE || self.burst > MAX_RATE {
            return Err(format!(
                "bps/iops/max values must be within [0, {MAX_RATE}]"
            ));
        } else if self.burst_seconds == 0 {
            "the burst length cannot be 0"
        } else if self.burst_seconds > 1 && self.burst == 0 {
            "burst length set without burst rate"
        } else if self.burst > 0 && self.burst_seconds > MAX_RATE / self.burst {
            "burst length too high for this burst rate"
        } else if self.burst > 0 && self.average == 0 {
            "bps_max/iops_max require corresponding bps/iops values"
        } else if self.burst > 0 && self.burst < self.average {
            "bps_max/iops_max cannot be lower than bps/iops"
        } else {
            return Ok(());
        };
        Err(why.to_owned())
    }
}
