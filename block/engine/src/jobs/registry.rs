//! The jobs that exist, and the commands that a client can give them.

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
};

use strata_exec::sync::WaitQueue;

use super::{
    Job,
    group::{Group, Membership},
    lifecycle::Ending,
    store::PastJob,
};
use crate::api::{BlockJobInfo, Cmd, CmdError, ErrorClass, JobInfo, JobStatus};

/// Every job that has not been dismissed.
#[derive(Default)]
pub(crate) struct Jobs {
    jobs: RefCell<Vec<Rc<Job>>>,
    groups: RefCell<Vec<Weak<Group>>>,
    /// Those of earlier processes that are over.
    past: RefCell<Vec<PastJob>>,
    /// One has ended.
    ended: WaitQueue,
}

/// What a client can ask of a job (`JobVerb`).
#[derive(Debug, Clone, Copy)]
enum Verb {
    Cancel,
    Pause,
    Resume,
    SetSpeed,
    Complete,
    Finalize,
    Dismiss,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::SetSpeed => "set-speed",
            Self::Complete => "complete",
            Self::Finalize => "finalize",
            Self::Dismiss => "dismiss",
        }
    }

    /// Whether a job in state `status` takes the verb (QEMU's `JobVerbTable`).
    fn fits(self, status: JobStatus) -> bool {
        use JobStatus::{Concluded, Created, Paused, Pending, Ready, Running, Standby, Waiting};
        match self {
            Self::Cancel => matches!(
                status,
                Created | Running | Paused | Ready | Standby | Waiting | Pending
            ),
            Self::Pause | Self::Resume | Self::SetSpeed => {
                matches!(status, Created | Running | Paused | Ready | Standby)
            }
            Self::Complete => matches!(status, Ready | Standby),
            Self::Finalize => status == Pending,
            Self::Dismiss => status == Concluded,
        }
    }

    fn check(self, job: &Job) -> Result<(), CmdError> {
        if self.fits(job.status()) {
            return Ok(());
        }
        Err(self.refused(job.id(), job.status()))
    }

    /// What is answered if a job in state `status` does not take it.
    fn refused(self, id: &str, status: JobStatus) -> CmdError {
        let status = serde_json::to_value(status).unwrap_or_default();
        CmdError::generic(format!(
            "Job '{id}' in state '{}' cannot accept command verb '{}'",
            status.as_str().unwrap_or_default(),
            self.name()
        ))
    }
}

impl Jobs {
    /// A place in the group `id`, which has `size` jobs if that is said.
    ///
    /// # Errors
    /// There is none, or it is not known how large the group is.
    pub fn join(&self, id: &str, size: Option<u32>) -> Result<Membership, CmdError> {
        Membership::take(&mut self.groups.borrow_mut(), id, size)
    }

    /// A name for a group that nothing else is called by.
    pub fn made_up_group(&self) -> String {
        let groups = self.groups.borrow();
        let taken = |name: &String| {
            let mut groups = groups.iter().filter_map(Weak::upgrade);
            groups.any(|group| group.id() == name)
        };
        let mut names = (0..).map(|number: u64| format!("#group{number}"));
        names.find(|name| !taken(name)).unwrap_or_default()
    }

    /// Whether there is the job of a group that `cmd` asks for, and was asked for so.
    pub fn knows(&self, cmd: &Cmd) -> bool {
        let (jobs, past) = (self.jobs.borrow(), self.past.borrow());
        let mut asked = jobs.iter().filter_map(|job| job.asked());
        asked.any(|asked| cmd.asks_the_same(asked))
            || past.iter().any(|past| cmd.asks_the_same(&past.asked))
    }

    /// Adds a job.
    pub fn insert(&self, job: Rc<Job>) {
        self.jobs.borrow_mut().push(job);
    }

    /// Forgets a job that is over.
    pub fn remove(&self, job: &Job) {
        job.set_status(JobStatus::Null);
        self.jobs
            .borrow_mut()
            .retain(|other| other.id() != job.id());
    }

    /// Jobs whose work is not over.
    pub fn unfinished(&self) -> Vec<Rc<Job>> {
        let jobs = self.jobs.borrow();
        jobs.iter()
            .filter(|job| job.status() != JobStatus::Concluded)
            .cloned()
            .collect()
    }

    /// A job has concluded.
    pub fn note_end(&self) {
        self.ended.wake_all();
    }

    /// Waits until a job has concluded.
    ///
    /// # Errors
    /// What has come of it, if that is an error.
    pub async fn wait_for(&self, job: &Job) -> Result<(), String> {
        while !matches!(job.status(), JobStatus::Concluded | JobStatus::Null) {
            self.ended.wait().await;
        }
        job.error().map_or(Ok(()), Err)
    }

    /// Cancels every job, and waits until none is at work. No new ones are started meanwhile.
    pub async fn end_all(&self) {
        loop {
            let unfinished = self.unfinished();
            if unfinished.is_empty() {
                return;
            }
            unfinished.iter().for_each(|job| job.leave());
            self.ended.wait().await;
        }
    }

    /// Forgets the errors that jobs have met so far.
    pub fn reset_io_status(&self) {
        self.jobs
            .borrow()
            .iter()
            .for_each(|job| job.reset_io_status());
    }

    fn find(&self, id: &str, verb: Verb) -> Result<Rc<Job>, CmdError> {
        let jobs = self.jobs.borrow();
        let found = jobs.iter().find(|job| job.id() == id);
        found.cloned().ok_or_else(|| self.not_found(id, verb))
    }

    fn not_found(&self, id: &str, verb: Verb) -> CmdError {
        let past = self.past.borrow();
        match past.iter().find(|past| past.info.device == id) {
            Some(past) => verb.refused(id, past.info.status),
            None => CmdError {
                class: ErrorClass::DeviceNotActive,
                desc: format!("Block job '{id}' not found"),
            },
        }
    }

    /// The job called `id`, if it takes the verb now.
    fn find_for(&self, verb: Verb, id: &str) -> Result<Rc<Job>, CmdError> {
        let job = self.find(id, verb)?;
        verb.check(&job)?;
        Ok(job)
    }

    /// `block-job-cancel`. A job that is ready ends well, unless it is to be ended by force.
    pub fn cancel(&self, id: &str, force: bool) -> Result<(), CmdError> {
        let job = self.find(id, Verb::Cancel)?;
        if job.is_paused() && !force {
            let desc = format!("The block job for device '{id}' is currently paused");
            return Err(CmdError::generic(desc));
        }
        Verb::Cancel.check(&job)?;
        if job.is_ready() && !force {
            job.end_by(Ending::Leave);
        } else {
            job.cancel();
        }
        Ok(())
    }

    /// `job-complete`.
    pub fn complete(&self, id: &str) -> Result<(), CmdError> {
        let job = self.find_for(Verb::Complete, id)?;
        let ends = job
            .ending()
            .is_some_and(|ending| ending != Ending::TakeOver);
        if job.is_cancelled() || ends {
            let desc = format!("The active block job '{id}' cannot be completed");
            return Err(CmdError::generic(desc));
        }
        job.end_by(Ending::TakeOver);
        Ok(())
    }

    /// `block-job-set-speed`.
    pub fn set_speed(&self, id: &str, speed: u64) -> Result<(), CmdError> {
        self.find_for(Verb::SetSpeed, id)?.set_speed(speed);
        Ok(())
    }

    /// `block-job-pause`.
    pub fn pause(&self, id: &str) -> Result<(), CmdError> {
        let job = self.find_for(Verb::Pause, id)?;
        if job.is_paused() {
            return Err(CmdError::generic("Job is already paused".to_owned()));
        }
        job.pause();
        Ok(())
    }

    /// `block-job-resume`.
    pub fn resume(&self, id: &str) -> Result<(), CmdError> {
        let job = self.find(id, Verb::Resume)?;
        if !job.is_paused() {
            return Err(CmdError::generic(
                "Can't resume a job that was not paused".to_owned(),
            ));
        }
        Verb::Resume.check(&job)?;
        job.resume();
        Ok(())
    }

    /// `job-finalize`.
    pub fn finalize(&self, id: &str) -> Result<(), CmdError> {
        self.find_for(Verb::Finalize, id)?.finalize();
        Ok(())
    }

    /// The job that `job-dismiss` means, to be removed once nothing records it any more.
    ///
    /// # Errors
    /// There is none, or it is not over.
    pub fn to_dismiss(&self, id: &str) -> Result<Rc<Job>, CmdError> {
        self.find_for(Verb::Dismiss, id)
    }

    /// `job-dismiss`, of a job that is not recorded.
    pub fn dismiss(&self, id: &str) -> Result<(), CmdError> {
        let job = self.to_dismiss(id)?;
        self.remove(&job);
        Ok(())
    }

    /// Enters a job of an earlier process that is over.
    pub fn enter_past(&self, job: PastJob) {
        self.past.borrow_mut().push(job);
    }

    /// Takes such a job out.
    pub fn take_past(&self, id: &str) -> Option<PastJob> {
        let mut past = self.past.borrow_mut();
        let at = past.iter().position(|past| past.info.device == id)?;
        Some(past.remove(at))
    }

    /// `query-block-jobs`.
    pub fn block_jobs(&self) -> Vec<BlockJobInfo> {
        let past = self.past.borrow();
        let past = past.iter().map(|past| past.info.clone());
        let jobs = self.jobs.borrow();
        past.chain(jobs.iter().map(|job| job.block_job_info()))
            .collect()
    }

    /// `query-jobs`.
    pub fn jobs(&self) -> Vec<JobInfo> {
        let past = self.past.borrow();
        let past = past.iter().map(|past| JobInfo::from(&past.info));
        let jobs = self.jobs.borrow();
        past.chain(jobs.iter().map(|job| job.job_info())).collect()
    }
}

#[cfg(test)]
mod tests;
