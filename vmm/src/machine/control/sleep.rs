//! Suspending to memory (ACPI's S3), and waking up.

use strata_block::api::CmdError;

use super::{Control, Goal, RunError};
use crate::{
    machine::{control::ending::End, outcome::Outcome},
    monitor::{Notice, RunState},
};

impl Control {
    /// The guest suspends. If it stands still already, it does so when it is to go on.
    pub(super) fn on_suspended(&mut self) -> Result<(), RunError> {
        if !self.parts.board.is_asleep() {
            // It has been reset, or woken, since it asked for that.
            return Ok(());
        }
        self.asleep = true;
        if self.parts.state.get() == RunState::Running {
            self.head_for(Goal::Suspend)?;
        }
        Ok(())
    }

    /// It stands still, and its disks have what it has written.
    pub(super) fn suspended(&self) {
        self.parts.state.set(RunState::Suspended);
        self.parts.notifier.notify(Notice::Suspend);
    }

    /// Something has happened that the guest wants to be woken by. If a monitor has stopped it as
    /// well, that has to wait.
    pub(super) fn on_woken_up(&mut self) -> Result<(), RunError> {
        if self.parts.state.get() == RunState::Suspended {
            self.head_for(Goal::WakeUp)?;
        }
        Ok(())
    }

    /// `system_wakeup`; why not, where that cannot be.
    pub(super) fn wake_up_as_asked(&mut self) -> Result<Result<(), CmdError>, RunError> {
        if self.parts.state.get() != RunState::Suspended {
            let desc = "Unable to wake up: guest is not in suspended state";
            return Ok(Err(CmdError::generic(desc)));
        }
        self.parts.board.ask_to_wake_up();
        self.head_for(Goal::WakeUp).map(Ok)
    }

    /// `cont` of a guest that has suspended: it stays so until something wakes it.
    pub(super) fn cont_asleep(&mut self) -> Result<(), RunError> {
        if self.parts.state.get() == RunState::Suspended {
            return Ok(());
        }
        self.parts.engine.reset_io_status();
        self.parts.state.set(RunState::Suspended);
        self.parts.notifier.notify(Notice::Resume);
        if self.parts.board.is_to_wake_up() {
            self.head_for(Goal::WakeUp)?;
        }
        Ok(())
    }

    /// Lets the guest go on where it wants to. Its devices are as after power-on.
    pub(super) fn wake_up(&mut self) -> Result<(), RunError> {
        let Some(entry) = self.parts.start.resume()? else {
            tracing::warn!("the guest has not said where it goes on: it is reset");
            self.parts.board.reset();
            return self.boot_again(true);
        };
        let parts = &self.parts;
        parts.chips.restore(&parts.vm.fd)?;
        parts.vcpus.reset(entry)?;
        self.asleep = false;
        parts.state.set(RunState::Running);
        self.go_on();
        self.parts.notifier.notify(Notice::Wakeup);
        Ok(())
    }

    /// Says what people might not think of when the time of a run is over.
    pub(super) fn explain_sleep(&self, end: &End) {
        if self.asleep && matches!(end.outcome, Ok(Outcome::TimedOut(_))) {
            tracing::warn!(
                "the guest was suspended: its clock's alarm or a monitor's 'system_wakeup' wakes it"
            );
        }
    }
}
