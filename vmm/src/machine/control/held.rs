//! The guest's requests that have failed and are held: it is stopped, and goes on when it is
//! resumed, or when there is room again.

use std::time::{Duration, Instant};

use strata_block::engine::FailedRequests;

use super::{Control, Goal, RunError};
use crate::monitor::RunState;

/// How long requests that wait for room wait for their next try.
const RETRY: Duration = Duration::from_secs(1);

impl Control {
    /// A disk holds a request, or has held one: perhaps it has gone on since the message was sent.
    pub(super) fn on_held_request(&mut self) -> Result<(), RunError> {
        if self.parts.engine.holds_requests() {
            self.stop(RunState::IoError)?;
        }
        Ok(())
    }

    /// What becomes of failed requests on the way to the goal. After a stop, or a core, they are
    /// tried again; the driver that would get the error has gone after a reset, and at the end.
    pub(super) fn failed_requests(&self) -> FailedRequests {
        match self.course.goal() {
            Some(Goal::Stop(_) | Goal::Suspend | Goal::Dump) => FailedRequests::Held,
            Some(Goal::Reset { .. } | Goal::WakeUp | Goal::End) | None => FailedRequests::Ended,
        }
    }

    /// Whether the guest's requests rest where they are to stay for as long as it is stopped.
    pub(super) fn rests_but_for_held_requests(&self) -> bool {
        let stops = matches!(
            self.course.goal(),
            Some(Goal::Stop(_) | Goal::Suspend | Goal::Dump)
        );
        stops && self.parts.engine.holds_requests() && self.parts.engine.rests()
    }

    /// The guest has been stopped. If that was for want of room, it is looked for from now on.
    pub(super) fn begin_to_wait_for_room(&mut self) {
        if self.parts.state.get() != RunState::IoError {
            return;
        }
        if self.parts.engine.waits_for_room() {
            self.retry = Some(Instant::now() + RETRY);
            tracing::warn!("the guest is stopped until there is room for what it writes");
        } else {
            tracing::warn!("the guest is stopped until a monitor's 'cont' has its disk try again");
        }
    }

    /// Somebody wants the guest to stay stopped, whether there is room or not.
    pub(super) fn wait_for_no_room(&mut self) {
        if self.parts.state.get() == RunState::IoError {
            self.parts.state.set(RunState::Paused);
            self.retry = None;
        }
    }

    /// Tries requests that wait for room again when it is time, and has the guest go on once none
    /// of its requests is left.
    pub(super) fn go_on_if_there_is_room(&mut self) {
        let Some(due) = self.retry else {
            return;
        };
        if self.parts.state.get() != RunState::IoError || !self.course.is_steady() {
            self.retry = None;
            return;
        }
        if !self.parts.engine.has_requests() {
            self.retry = None;
            tracing::warn!("there is room again: the guest goes on");
            self.cont();
        } else if due <= Instant::now() {
            self.retry = Some(Instant::now() + RETRY);
            self.parts.engine.retry_for_room();
            self.turn.more_work_now = true;
        }
    }
}
