//! What `block-stream` and `block-commit` have in common, from the command to the job.

use std::rc::Rc;

use strata_format::backing::Backing;
use strata_graph::{GuestDisk, Node, name_for};
use strata_storage::error::Error;

use super::{Engine, refused};
use crate::{
    api::CmdError,
    jobs::{Job, JobOptions, Work},
};

impl Engine {
    /// Starts a job that looks at `len` bytes of `disk`, if what will stand in a header leads to
    /// its base: `checked`.
    pub(super) fn start_merge(
        self: &Rc<Self>,
        disk: Rc<GuestDisk>,
        options: JobOptions,
        (work, len): (impl Work + 'static, u64),
        checked: Result<(), Error>,
    ) -> Result<Rc<Job>, CmdError> {
        checked.map_err(|error| refused(error.to_string()))?;
        let job = Job::new(self.exec.clone(), self.events.clone(), disk, options);
        // Known before the first step, so that no client sees "0 of 0 bytes".
        job.set_len(len);
        Ok(self.jobs.start(job, work))
    }
}

/// What the header of `above` will say of `base`: the name that the command gives, or its own.
pub(super) fn backing_for(above: &Rc<Node>, base: &Rc<Node>, given: Option<String>) -> Backing {
    match given {
        None => name_for(above, base),
        Some(name) => Backing {
            name: name.into(),
            format: Some(base.format().to_string()),
        },
    }
}
