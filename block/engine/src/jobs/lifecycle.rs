//! The life of a job, whatever its kind: the states that it goes through, and its events.
//!
//! A kind of job is a [`Work`]: what it copies, and how the graph follows. Everything else is here.

use std::rc::Rc;

use serde::{Deserialize, Serialize};
use strata_exec::Queue;
use strata_storage::error::{Error, IoError, IoResult};

use super::{Job, Jobs, group::Stage};
use crate::api::{Event, JobStatus};

/// What one kind of job does. Each step is called at most once, but for [`Work::converge`]. Jobs of
/// a group wait for each other before they settle, and after each step from there on.
pub(crate) trait Work {
    /// Does the work, step by step with a [`Job::checkpoint`] between them. The graph stays as it
    /// is.
    ///
    /// # Errors
    /// [`IoError::Cancelled`], or what ends the job.
    async fn run(&self, job: &Job) -> Result<(), Error>;

    /// Whether what the guest writes after [`Work::run`] makes more work: then the job becomes
    /// ready, and goes on until the client completes or cancels it.
    fn converges(&self) -> bool {
        false
    }

    /// Catches up with what the guest has written since the last time.
    ///
    /// # Errors
    /// As [`Work::run`].
    async fn converge(&self, _job: &Job) -> IoResult<()> {
        Ok(())
    }

    /// Catches up for good, once the client has said how the job is to end ([`Job::ending`]).
    ///
    /// # Errors
    /// As [`Work::run`].
    async fn complete(&self, _job: &Job) -> IoResult<()> {
        Ok(())
    }

    /// Makes durable what has been done, and looks whether the graph can follow. Headers and graph
    /// stay as they are.
    ///
    /// # Errors
    /// What failed.
    async fn settle(&self, job: &Job) -> Result<(), Error>;

    /// Has the header of a layer that stays name what it will lie on.
    ///
    /// # Errors
    /// What failed: it names what it did then.
    async fn write_header(&self, job: &Job) -> Result<(), Error>;

    /// Takes back [`Work::write_header`], since another job of the group has failed.
    ///
    /// # Errors
    /// What failed. The chain shows the same, whichever of the two the header names.
    async fn restore_header(&self, job: &Job) -> Result<(), Error>;

    /// The graph follows.
    ///
    /// # Errors
    /// What failed; the graph is as it was then.
    async fn finish(&self, job: &Job) -> Result<(), Error>;

    /// Gives back what the job has taken, after an error or a cancel in any step before.
    async fn undo(&self, _job: &Job) {}
}

/// How the client has a job end that is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ending {
    /// `job-complete`: what the job has made takes its place in the graph.
    TakeOver,
    /// `block-job-cancel`: the graph stays, and what the job has made is a copy of this moment.
    Leave,
    /// HMP's `commit`: the graph stays, and the top holds nothing any more.
    Empty,
}

/// Whether a job may go from one state into the other (QEMU's `JobSTT`).
pub(super) fn may_follow(from: JobStatus, to: JobStatus) -> bool {
    use JobStatus::{
        Aborting, Concluded, Created, Null, Paused, Pending, Ready, Running, Standby, Waiting,
    };
    match from {
        Created => matches!(to, Running | Aborting | Null),
        Running => matches!(to, Paused | Ready | Waiting | Aborting),
        Paused => to == Running,
        Ready => matches!(to, Standby | Waiting | Aborting),
        Standby => to == Ready,
        Waiting => matches!(to, Pending | Aborting),
        Pending => matches!(to, Aborting | Concluded),
        Aborting => to == Concluded,
        Concluded => to == Null,
        Null => false,
    }
}

impl Jobs {
    /// Enters a job and lets it begin.
    pub fn start(self: &Rc<Self>, job: Job, work: impl Work + 'static) -> Rc<Job> {
        let job = Rc::new(job);
        self.insert(job.clone());
        if let Some(group) = &job.options().group {
            group.start(&job);
        }
        // Before the command is answered: what the job does comes after it.
        job.set_status(JobStatus::Running);
        let exec = job.exec().clone();
        let name = Rc::new(format!("job {}", job.id()));
        exec.spawn_named(Queue::Job, name, live(job.clone(), work, self.clone()));
        job
    }
}

/// The job from its first step to its last event.
async fn live(job: Rc<Job>, work: impl Work, jobs: Rc<Jobs>) {
    let result = carry_out(&job, &work).await;
    let failure = failure(&job, result);
    if let Some(why) = &failure {
        if let Some(group) = &job.options().group {
            group.fail(&job, why);
        }
        job.set_status(JobStatus::Aborting);
        job.note_last_progress().await;
        work.undo(&job).await;
    }
    // What it holds is free, and layers that are not needed are closed, before the job's end is
    // reported.
    drop(work);
    let failed = failure.is_some();
    failure.into_iter().for_each(|why| job.fail(why));
    job.conclude().await;
    if job.is_cancelled() && failed {
        job.emit(Event::JobCancelled(job.end()));
    } else {
        job.emit(Event::JobCompleted(job.end(), job.error()));
    }
    job.set_status(JobStatus::Concluded);
    jobs.note_end();
    if job.options().auto_dismiss {
        jobs.remove(&job);
    }
}

/// Why the job has not done what it was to do.
fn failure(job: &Job, result: Result<(), Error>) -> Option<String> {
    match result {
        // An error that was ignored on the way.
        Ok(()) => job.error(),
        Err(Error::Io(IoError::Cancelled)) if job.is_cancelled() => {
            Some("Operation canceled".to_owned())
        }
        Err(error) => {
            let group = job.options().group.as_ref();
            let of_group = group
                .filter(|_| matches!(error, Error::Io(IoError::Cancelled)))
                .and_then(|group| group.failure());
            Some(of_group.unwrap_or_else(|| error.to_string()))
        }
    }
}

async fn carry_out(job: &Job, work: &impl Work) -> Result<(), Error> {
    if job.is_restored() {
        // Its client may want to look at it first.
        job.checkpoint().await?;
    }
    work.run(job).await?;
    // Errors that were ignored on the way: nothing can take over what has not been copied.
    if job.error().is_some() {
        return Ok(());
    }
    if work.converges() {
        stay_ready(job, work).await?;
        if job.error().is_some() {
            return Ok(());
        }
    }
    job.set_status(JobStatus::Waiting);
    job.meet(Stage::Copied).await?;
    job.wait_for_finalize().await?;
    work.settle(job).await?;
    job.meet(Stage::Settled).await?;
    job.decide().await?;
    job.meet(Stage::Decided).await?;
    work.write_header(job).await?;
    if let Err(called_off) = job.meet(Stage::Recorded).await {
        work.restore_header(job).await?;
        return Err(called_off.into());
    }
    work.finish(job).await
}

async fn stay_ready(job: &Job, work: &impl Work) -> IoResult<()> {
    job.become_ready();
    while job.ending().is_none() && job.error().is_none() {
        work.converge(job).await?;
        job.wait_for_change().await;
        job.checkpoint().await?;
    }
    work.complete(job).await
}

#[cfg(test)]
mod tests;
