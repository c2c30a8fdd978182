//! What resets, panics and the clock make of a run.

use std::time::{Duration, Instant};

use super::{Control, Goal, RunError};
use crate::{
    cli::ending::{OnPanic, OnReset},
    machine::outcome::{Outcome, ResetCause},
    monitor::{Answer, Notice, PanicAction, RunState, ShutdownCause},
};

/// What ends the run.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// What a reset does.
    pub on_reset: OnReset,
    /// What a panic does.
    pub on_panic: OnPanic,
    /// How long the run may take, and when that is over.
    pub limit: Option<(Duration, Instant)>,
}

/// A kernel that has begun to print that it panics has so long to say all of it, and to write to
/// the panic device.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What is known of a panic of the guest's kernel since it was booted.
#[derive(Debug, Default)]
pub(super) struct Panics {
    /// As the kernel printed it.
    reason: Option<String>,
    /// When it is acted upon, if nothing else shows that the kernel has said all.
    due: Option<Instant>,
    /// It has been acted upon.
    handled: bool,
}

impl Panics {
    /// The kernel prints that it panics.
    pub fn printed(&mut self, why: String) {
        if self.reason.is_none() && !self.handled {
            self.due = Some(Instant::now() + LAST_WORDS);
        }
        self.reason.get_or_insert(why);
    }

    fn happened(&self) -> bool {
        self.handled || self.reason.is_some()
    }
}

/// Why the machine ends.
pub(super) struct End {
    /// How, or what went wrong.
    pub outcome: Result<Outcome, String>,
    /// For the client that has asked for it, once its event is sent.
    pub answer: Option<Answer>,
}

impl From<Outcome> for End {
    fn from(outcome: Outcome) -> Self {
        Self {
            outcome: Ok(outcome),
            answer: None,
        }
    }
}

impl End {
    /// The guest cannot go on; one line on why.
    pub fn failed(why: String) -> Self {
        Self {
            outcome: Err(why),
            answer: None,
        }
    }

    /// The same, as a client wants it.
    pub fn answering(self, answer: Answer) -> Self {
        Self {
            answer: Some(answer),
            ..self
        }
    }

    /// As it is reported to QMP's clients.
    pub fn cause(&self) -> ShutdownCause {
        let cause = self.outcome.as_ref().map(Outcome::cause);
        cause.unwrap_or(ShutdownCause::HostError)
    }
}

impl Control {
    /// The machine is to be reset.
    pub(super) fn on_reset(&mut self, cause: ResetCause) -> Result<Option<End>, RunError> {
        if self.panics.reason.is_some()
            && let Some(end) = self.on_panic()?
        {
            return Ok(Some(end));
        }
        let guest = cause != ResetCause::Monitor;
        let stops = self.course.leads_to(Goal::Stop(RunState::GuestPanicked));
        if guest && (stops || self.parts.state.get() == RunState::GuestPanicked) {
            // It is to be looked at as it is.
            return Ok(None);
        }
        match self.parts.rules.on_reset {
            OnReset::Exit => return Ok(Some(self.unless_panicked(Outcome::Reset(cause)))),
            OnReset::Reboot => self.head_for(Goal::Reset { guest })?,
        }
        Ok(None)
    }

    /// The guest's kernel has panicked, and has said what it had to say.
    pub(super) fn on_panic(&mut self) -> Result<Option<End>, RunError> {
        self.panics.due = None;
        if std::mem::replace(&mut self.panics.handled, true) {
            return Ok(None);
        }
        let action = match self.parts.rules.on_panic {
            OnPanic::Report => PanicAction::Run,
            OnPanic::Exit => PanicAction::Poweroff,
            OnPanic::Pause => PanicAction::Pause,
        };
        self.parts.notifier.notify(Notice::GuestPanicked(action));
        match action {
            PanicAction::Run => Ok(None),
            PanicAction::Poweroff => {
                let why = self.panics.reason.clone();
                Ok(Some(Outcome::Panicked(why).into()))
            }
            PanicAction::Pause => {
                self.stop(RunState::GuestPanicked)?;
                Ok(None)
            }
        }
    }

    /// `outcome`, but for a panic that explains it.
    pub(super) fn unless_panicked(&self, outcome: Outcome) -> End {
        if self.panics.happened() {
            return Outcome::Panicked(self.panics.reason.clone()).into();
        }
        outcome.into()
    }

    /// When the loop has to look at the clock next.
    pub(super) fn next_alarm(&self) -> Option<Instant> {
        let limit = self.parts.rules.limit.map(|(_, end)| end);
        let limit = limit.filter(|_| !self.timed_out);
        let alarms = self.panics.due.into_iter().chain(limit);
        alarms.chain(self.retry).min()
    }

    /// What the time has brought about.
    pub(super) fn look_at_the_clock(&mut self) -> Result<Option<End>, RunError> {
        self.note_time_out();
        if self.timed_out
            && let Some((limit, _)) = self.parts.rules.limit
        {
            return Ok(Some(self.unless_panicked(Outcome::TimedOut(limit))));
        }
        match self.panics.due {
            Some(due) if due <= Instant::now() => self.on_panic(),
            _ => Ok(None),
        }
    }

    /// Once the time is over nobody waits any longer for servers that have gone.
    pub(super) fn note_time_out(&mut self) {
        let over = |&(_, end): &(_, Instant)| end <= Instant::now();
        if !self.timed_out && self.parts.rules.limit.as_ref().is_some_and(over) {
            self.timed_out = true;
            self.parts.engine.give_up_on_servers();
        }
    }
}
