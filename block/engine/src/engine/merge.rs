//! What `block-stream` and `block-commit` have in common, from the command to the job.

use std::rc::Rc;

use strata_format::backing::Backing;
use strata_graph::{GuestDisk, Hold, Node, name_for};
use strata_storage::error::Error;

use super::{Engine, refused};
use crate::{
    api::CmdError,
    jobs::{Begun, Job, JobOptions, Membership, NewBase, Record, Relink, Work},
};

impl Engine {
    /// A job that will look at `len` bytes of `disk`, if what will stand in a header leads to its
    /// base: `checked`. `recorded` is what is recorded of it, and the layer that it writes, if what
    /// it has done there need not be done again.
    pub(super) fn prepare_merge(
        self: &Rc<Self>,
        disk: Rc<GuestDisk>,
        options: JobOptions,
        (work, len): (impl Work + 'static, u64),
        checked: Result<(), Error>,
        recorded: (Option<Record>, Option<Rc<Node>>),
    ) -> Result<Prepared, CmdError> {
        checked.map_err(|error| refused(error.to_string()))?;
        let (engine, (record, target)) = (self.clone(), recorded);
        let begin = Box::new(move |begun| {
            let (exec, events) = (engine.exec.clone(), engine.events.clone());
            let job = Job::new(exec, events, disk, options, begun);
            // Known before the first step, so that no client sees "0 of 0 bytes".
            job.set_len(len);
            engine.jobs.start(job, work)
        });
        Ok(Prepared {
            begin,
            record,
            target,
        })
    }

    /// How a merge ends that `hold` keeps others from: `upper` lies on the base, which its header
    /// names so.
    pub(super) fn relink(
        &self,
        upper: Rc<Node>,
        base: Option<(&Rc<Node>, Backing)>,
        hold: Hold,
    ) -> Relink {
        let base = base.map(|(node, backing)| NewBase {
            node: node.clone(),
            backing,
        });
        Relink::new(upper, base, self.opener.files().clone(), hold)
    }

    /// The job's place in its group, if it has one.
    pub(super) fn join_group(
        &self,
        group: Option<&str>,
        size: Option<u32>,
    ) -> Result<Option<Membership>, CmdError> {
        match group {
            Some(group) => self.jobs.join(group, size).map(Some),
            None if size.is_some() => Err(refused("'group-size' needs 'group'")),
            None => Ok(None),
        }
    }
}

/// A job that nothing stands in the way of. Layers and names are held for it; dropped, they are
/// free again.
pub(super) struct Prepared {
    begin: Box<dyn FnOnce(Begun) -> Rc<Job>>,
    /// What is recorded of it, if it is.
    pub record: Option<Record>,
    /// The layer that it writes, if what it has done there need not be done again.
    pub target: Option<Rc<Node>>,
}

impl Prepared {
    /// Lets it begin.
    pub fn start(self, begun: Begun) -> Rc<Job> {
        (self.begin)(begun)
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
