//! At most one `BLOCK_IO_ERROR` a second and disk: a guest that retries on a broken disk makes
//! thousands. Within the second only the last one is kept, as in QEMU. One that stops the guest is
//! always sent.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

use strata_block::api::{Event, OnError};

use super::notice::Notice;

const INTERVAL: Duration = Duration::from_secs(1);

/// The state of one disk.
#[derive(Debug)]
struct Limited {
    /// When the next one may be sent.
    due: Instant,
    held: Option<(SystemTime, Notice)>,
}

/// Holds back what comes too fast.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    disks: HashMap<String, Limited>,
}

impl Throttle {
    /// Gives `notice` back if it may be sent at `now`, and keeps it otherwise.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        time: SystemTime,
        notice: Notice,
    ) -> Option<(SystemTime, Notice)> {
        let device = match &notice {
            Notice::Block(Event::IoError { device, action, .. }) if *action != OnError::Stop => {
                device
            }
            _ => return Some((time, notice)),
        };
        let fresh = || Limited {
            due: now,
            held: None,
        };
        let disk = self.disks.entry(device.clone()).or_insert_with(fresh);
        if disk.held.is_some() || now < disk.due {
            disk.held = Some((time, notice));
            return None;
        }
        disk.due = now + INTERVAL;
        Some((time, notice))
    }

    /// When something held back may be sent.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.disks
            .values()
            .filter(|disk| disk.held.is_some())
            .map(|disk| disk.due)
            .min()
    }

    /// What has been held back long enough.
    pub(super) fn release(&mut self, now: Instant) -> Vec<(SystemTime, Notice)> {
        let due = self.disks.values_mut().filter(|disk| disk.due <= now);
        due.filter_map(|disk| {
            let held = disk.held.take();
            if held.is_some() {
                disk.due = now + INTERVAL;
            }
            held
        })
        .collect()
    }
}
