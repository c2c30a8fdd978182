//! How much a job copies in one step.
//!
//! While a step runs, guest requests wait. What a step costs differs by orders of magnitude between
//! hosts, so its size follows from how long the steps before have held the device thread.

use std::time::Duration;

use strata_graph::GuestDisk;

/// Bytes that a step may copy at most, on any host.
pub(super) const MOST: u64 = 1 << 20;
const LEAST: u64 = 64 << 10;
/// Steps that held the thread longer are too large.
const TOO_LONG: Duration = Duration::from_millis(4);
/// Steps that held it for less may be larger.
const SHORT: Duration = Duration::from_millis(1);

/// A guest with requests under way needs the processor too, where it is shared with this thread.
const LONGEST_REST: Duration = Duration::from_millis(20);

/// What a job may have under way while the guest sends requests, which wait for it.
pub(super) struct BesideGuest {
    /// At least 1.
    pub pieces: usize,
    /// Of one piece, at most.
    pub bytes: u64,
}

impl BesideGuest {
    /// Beside a guest that has so many requests under way.
    pub fn new(disk: &GuestDisk, under_way: usize) -> Self {
        if disk.image_options().direct {
            // Guest and job share the storage: with a second piece under way a guest that reads at
            // queue depth 1 kept 0.63 of its requests for 0.78, the merge being half as fast again.
            Self {
                pieces: 1,
                bytes: 64 << 10,
            }
        } else {
            // One is read while another is written; the guest's share of the thread stays larger.
            Self {
                pieces: 2 + under_way / 8,
                bytes: 128 << 10,
            }
        }
    }
}

/// The size of the next step.
pub(super) struct Stride(u64);

impl Default for Stride {
    fn default() -> Self {
        Self(LEAST * 4)
    }
}

impl Stride {
    /// Bytes.
    pub fn bytes(&self) -> u64 {
        self.0
    }

    /// How long to leave the processor to the guest after a step: not at all where steps are short.
    pub fn rest_after(held: Duration) -> Duration {
        if held < SHORT {
            Duration::ZERO
        } else {
            (held * 2).min(LONGEST_REST)
        }
    }

    /// Follows from how long the last step has held the device thread in one go.
    pub fn adapt(&mut self, held: Duration) {
        if held > TOO_LONG {
            self.0 = (self.0 / 2).max(LEAST);
        } else if held < SHORT {
            self.0 = (self.0 * 2).min(MOST);
        }
    }
}

#[cfg(test)]
mod tests;
