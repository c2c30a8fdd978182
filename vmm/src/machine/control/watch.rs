//! What ends the wait for events.

use std::os::fd::RawFd;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

/// Ends the wait for events when a file becomes readable. The loop reads it after each turn.
pub struct Watch {
    file: RawFd,
}

impl Watch {
    /// For a file that stays open as long as the loop.
    pub fn file(file: RawFd) -> Self {
        Self { file }
    }
}

impl MutEventSubscriber for Watch {
    fn process(&mut self, _: Events, _: &mut EventOps) {}

    fn init(&mut self, ops: &mut EventOps) {
        if let Err(error) = ops.add(Events::new_raw(self.file, EventSet::IN)) {
            tracing::error!(?error, "an event source is not watched");
        }
    }
}
