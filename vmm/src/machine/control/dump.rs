//! Cores of the guest's memory, while it stands still.

use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
};

use strata_block::api::{CmdError, Reply};
use strata_exec::Queue;

use super::{Control, Goal, RunError};
use crate::{cli::report::CoreOption, core_dump, machine::CoreError};

/// A core that is wanted, and what became of the last one.
#[derive(Default)]
pub(super) struct Dump {
    /// The one that is to be written next.
    pub wanted: Option<CoreOption>,
    result: Rc<RefCell<Option<Result<PathBuf, CoreError>>>>,
}

impl Dump {
    /// What became of it.
    pub fn take(&self) -> Option<Result<PathBuf, CoreError>> {
        self.result.take()
    }

    /// The same for the client that has asked for it.
    pub fn reply(&self) -> Result<Reply, CmdError> {
        match self.take() {
            Some(Err(error)) => Err(CmdError::generic(error.to_string())),
            _ => Ok(Reply::Done),
        }
    }
}

impl Control {
    /// Sets out for a core, after which the machine goes on.
    pub(super) fn dump(&mut self, option: CoreOption) -> Result<(), RunError> {
        self.dump.wanted = Some(option);
        self.head_for(Goal::Dump)
    }

    /// Has a helper write the core that is wanted. The vCPUs are parked, and no request is under
    /// way.
    pub(super) fn write_core(&mut self, done: Rc<Cell<bool>>) -> Result<(), RunError> {
        let Some(CoreOption { path, addresses }) = self.dump.wanted.take() else {
            done.set(true);
            return Ok(());
        };
        let registers = self.parts.vcpus.inspect()?;
        let memory = Arc::clone(&self.parts.start.memory);
        let result = Rc::clone(&self.dump.result);
        let exec = Rc::clone(self.parts.engine.exec());
        self.parts.engine.exec().spawn(Queue::Guest, async move {
            let work = move || {
                let written = core_dump::write(&path, &memory, &registers, addresses);
                match written {
                    Ok(()) => Ok(path),
                    Err(source) => Err(CoreError { path, source }),
                }
            };
            result.replace(Some(exec.helpers().run(work).await));
            done.set(true);
        });
        Ok(())
    }
}
