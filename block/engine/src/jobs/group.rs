//! Groups of jobs: merges of several disks that finish as one.
//!
//! A member whose data is in place waits until the others' is. Then all make it durable; then all
//! have their headers say what the chains will be; then the graph follows. Between these steps each
//! waits for all. A member that fails, or is cancelled, before the headers are written has all of
//! them end without having changed any chain; headers that have been written are put back.

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
};

use strata_exec::sync::WaitQueue;

use super::Job;
use crate::api::{CmdError, JobStatus};

/// How far a member of a group has come, where it waits for the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its data is in place.
    Copied,
    /// It is durable, and nothing stands in the way of the rest.
    Settled,
    /// It is recorded that this is so, where jobs are recorded.
    Decided,
    /// Headers say what the chain will be. Nobody leaves any more.
    Recorded,
}

/// Jobs of which none ends well if one does not.
pub(crate) struct Group {
    id: String,
    size: u32,
    /// Places that are taken.
    taken: Cell<u32>,
    members: RefCell<Vec<Weak<Job>>>,
    /// Members that have come to each [`Stage`].
    arrived: [Cell<u32>; 4],
    /// Why none of them ends well.
    failure: RefCell<Option<String>>,
    changed: WaitQueue,
}

/// A job's place in a group. One that is dropped before the job has started is free again.
pub(crate) struct Membership {
    group: Rc<Group>,
    started: Cell<bool>,
}

impl Group {
    fn new(id: &str, size: u32) -> Self {
        Self {
            id: id.to_owned(),
            size,
            taken: Cell::new(0),
            members: RefCell::default(),
            arrived: Default::default(),
            failure: RefCell::default(),
            changed: WaitQueue::default(),
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    fn jobs(&self) -> Vec<Rc<Job>> {
        self.members
            .borrow()
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }

    /// Whether all members have come to their end.
    fn is_over(&self) -> bool {
        let ended = |job: &Rc<Job>| matches!(job.status(), JobStatus::Concluded | JobStatus::Null);
        let started = self.members.borrow().len();
        started == self.taken.get() as usize && self.jobs().iter().all(ended)
    }

    /// Refuses one more member, for a job that says the group has `size` members.
    fn check_place(&self, size: Option<u32>) -> Result<(), CmdError> {
        let why = if let Some(size) = size.filter(|size| *size != self.size) {
            format!("has {} jobs, not {size}", self.size)
        } else if let Some(failure) = &*self.failure.borrow() {
            format!("comes to its end: {failure}")
        } else if self.taken.get() == self.size {
            format!("has all of its {} jobs", self.size)
        } else {
            return Ok(());
        };
        Err(CmdError::generic(format!("Group '{}' {why}", self.id)))
    }

    fn is_complete(&self, stage: Stage) -> bool {
        self.arrived[stage as usize].get() == self.size
    }

    fn arrive(&self, stage: Stage) {
        let arrived = &self.arrived[stage as usize];
        arrived.set(arrived.get() + 1);
        self.changed.wake_all();
    }
}

impl Membership {
    /// A place in the group `id`: one of `groups`, or a new one of `size` jobs.
    ///
    /// # Errors
    /// There is no such place, or it is not said how large the group is.
    pub(super) fn take(
        groups: &mut Vec<Weak<Group>>,
        id: &str,
        size: Option<u32>,
    ) -> Result<Self, CmdError> {
        groups.retain(|group| group.upgrade().is_some_and(|group| !group.is_over()));
        let known = groups.iter().filter_map(Weak::upgrade);
        let group = match known.into_iter().find(|group| group.id == id) {
            Some(group) => {
                group.check_place(size)?;
                group
            }
            None => {
                let size = size.filter(|size| *size > 0).ok_or_else(|| {
                    CmdError::generic(format!(
                        "Group '{id}' is new: say with 'group-size' how many jobs it has, or start \
                         them in one transaction"
                    ))
                })?;
                let group = Rc::new(Group::new(id, size));
                groups.push(Rc::downgrade(&group));
                group
            }
        };
        group.taken.set(group.taken.get() + 1);
        Ok(Self {
            group,
            started: Cell::new(false),
        })
    }

    pub fn group_id(&self) -> &str {
        &self.group.id
    }

    /// The job that has the place begins.
    pub(super) fn start(&self, job: &Rc<Job>) {
        self.started.set(true);
        self.group.members.borrow_mut().push(Rc::downgrade(job));
    }

    /// All members that have begun.
    pub(super) fn jobs(&self) -> Vec<Rc<Job>> {
        self.group.jobs()
    }

    /// Why no member ends well.
    pub(super) fn failure(&self) -> Option<String> {
        let failure = self.group.failure.borrow();
        let id = &self.group.id;
        failure
            .as_ref()
            .map(|failure| format!("Group '{id}' ends: {failure}"))
    }

    /// `job` has failed, or has been cancelled: so none of them ends well.
    pub(super) fn fail(&self, job: &Job, why: &str) {
        if self.group.failure.borrow().is_some() || self.group.is_complete(Stage::Recorded) {
            return;
        }
        let (id, disk) = (job.id(), &job.disk().options().id);
        let who = if disk.is_empty() || id == disk {
            format!("disk '{id}'")
        } else {
            format!("disk '{disk}' (job '{id}')")
        };
        self.group
            .failure
            .replace(Some(format!("{who} failed: {why}")));
        for other in self.jobs().iter().filter(|other| other.id() != id) {
            other.call_off();
        }
        self.wake();
    }

    /// A member sees what has changed, if it waits for others.
    pub(super) fn wake(&self) {
        self.group.changed.wake_all();
    }

    /// Waits until all members have come to `stage`: `true`; or until `job`, which has, is not to
    /// go on.
    pub(super) async fn meet(&self, job: &Job, stage: Stage) -> bool {
        if self.group.failure.borrow().is_some() {
            return false;
        }
        self.group.arrive(stage);
        while !self.group.is_complete(stage) {
            let left = stage != Stage::Recorded && job.is_to_stop();
            if left || self.group.failure.borrow().is_some() {
                return false;
            }
            self.group.changed.wait().await;
        }
        true
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if !self.started.get() {
            self.group.taken.set(self.group.taken.get() - 1);
        }
    }
}
