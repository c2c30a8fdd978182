//! How a run ended, as the exit status and one line say it.

use std::time::Duration;

use crate::monitor::ShutdownCause;

/// How a run ended, where Strata itself did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The guest powered off.
    PoweredOff,
    /// `quit` in a monitor.
    Quit,
    /// Ctrl-A X on the console.
    Left,
    /// SIGTERM, SIGINT or SIGHUP.
    Signal,
    /// The command that the guest ran has ended with this status.
    Command(u8),
    /// The guest wrote this code to the exit port.
    Exited(u32),
    /// The guest's kernel panicked, with this reason if it gave one.
    Panicked(Option<String>),
    /// The machine was reset where that ends the run.
    Reset(ResetCause),
    /// It took longer than it may.
    TimedOut(Duration),
}

/// What reset the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetCause {
    /// The guest, in one of the ways that there are.
    Guest,
    /// A vCPU met a triple fault.
    TripleFault,
    /// `system_reset` in a monitor.
    Monitor,
}

/// The largest code of a guest that is an exit status.
const LAST_CODE: u32 = 99;

impl Outcome {
    /// The exit status of `strata run`.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::PoweredOff | Self::Quit | Self::Left | Self::Signal => 0,
            Self::Command(status) => *status,
            // At most 99, so it fits.
            Self::Exited(code) => (*code).min(LAST_CODE) as u8,
            Self::Panicked(_) => 101,
            Self::Reset(_) => 102,
            Self::TimedOut(_) => 124,
        }
    }

    /// The word for it in the result's file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::PoweredOff => "power-off",
            Self::Quit | Self::Left => "quit",
            Self::Signal => "signal",
            Self::Command(_) => "command",
            Self::Exited(_) => "exit",
            Self::Panicked(_) => "panic",
            Self::Reset(ResetCause::TripleFault) => "triple-fault",
            Self::Reset(ResetCause::Guest | ResetCause::Monitor) => "reset",
            Self::TimedOut(_) => "timeout",
        }
    }

    /// One line for people.
    pub fn reason(&self) -> String {
        match self {
            Self::PoweredOff => "the guest powered off".into(),
            Self::Quit => "the guest was ended by quit".into(),
            Self::Left => "the guest was ended by Ctrl-A X".into(),
            Self::Signal => "the guest was ended by a signal".into(),
            Self::Command(status) => format!("the command ended with status {status}"),
            Self::Exited(code @ 0..=LAST_CODE) => format!("the guest ended with code {code}"),
            Self::Exited(code) => {
                format!("the guest ended with code {code} (exit status {LAST_CODE})")
            }
            Self::Panicked(None) => "the guest's kernel panicked".into(),
            Self::Panicked(Some(why)) => format!("the guest's kernel panicked: {why}"),
            Self::Reset(ResetCause::Guest) => "the guest reset the machine".into(),
            Self::Reset(ResetCause::TripleFault) => {
                "the guest met a triple fault, which resets the machine".into()
            }
            Self::Reset(ResetCause::Monitor) => "the machine was reset by system_reset".into(),
            Self::TimedOut(limit) => {
                format!("the guest had not ended after {} s", limit.as_secs_f64())
            }
        }
    }

    /// Whether somebody will want to know what the guest was doing.
    pub fn needs_explaining(&self) -> bool {
        matches!(self, Self::Panicked(_) | Self::TimedOut(_))
    }

    /// Whether somebody may want to look at the guest's memory.
    pub fn is_worth_a_core(&self) -> bool {
        self.needs_explaining() || *self == Self::Reset(ResetCause::TripleFault)
    }

    /// The reason in the event `SHUTDOWN`.
    pub fn cause(&self) -> ShutdownCause {
        match self {
            Self::PoweredOff | Self::Command(_) | Self::Exited(_) => ShutdownCause::Guest,
            Self::Quit | Self::Left => ShutdownCause::Quit,
            // There is no better word for a time-out.
            Self::Signal | Self::TimedOut(_) => ShutdownCause::Signal,
            Self::Panicked(_) => ShutdownCause::GuestPanic,
            Self::Reset(ResetCause::Guest | ResetCause::TripleFault) => ShutdownCause::GuestReset,
            Self::Reset(ResetCause::Monitor) => ShutdownCause::SystemReset,
        }
    }
}

#[cfg(test)]
mod tests;
