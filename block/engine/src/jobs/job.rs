//! What all jobs share: state, progress, speed, pause, cancel, and the events that report it.

mod info;
mod recorded;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use strata_exec::{Executor, Queue, Rate, TaskGroup, sync::WaitQueue, yield_now};
use strata_graph::{GuestDisk, IoStatus, Name};
use strata_storage::error::{IoError, IoResult};

use super::{
    group::{Membership, Stage},
    lifecycle::{Ending, may_follow},
    progress::Progress,
    store::Journal,
};
use crate::api::{Cmd, Event, EventSink, JobPhase, JobStatus, JobType, OnError};

/// A waiting job looks up this often, to see a new speed, a cancel or what the guest has written.
const LONGEST_NAP: Duration = Duration::from_millis(100);

/// A guest that has sent nothing for so many steps is not expected to send anything soon.
const GUEST_RESTS: u32 = 32;

/// What a job sees of the guest whose disk it works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Guest {
    /// It has sent requests lately; so many have not been completed.
    Works { under_way: usize },
    /// It wants nothing.
    Rests,
}

/// As the user started it.
pub(crate) struct JobOptions {
    pub id: Name,
    pub kind: JobType,
    pub speed: u64,
    pub on_error: OnError,
    pub auto_finalize: bool,
    pub auto_dismiss: bool,
    pub group: Option<Membership>,
}

/// Where a job begins.
#[derive(Default)]
pub(crate) struct Begun {
    /// Where it is recorded, if it is.
    pub journal: Option<Journal>,
    /// All before this byte has been done and is durable.
    pub from: u64,
    /// It is paused.
    pub paused: bool,
    /// An earlier process has begun it.
    pub restored: bool,
    /// How it is to end once it is ready, if that is known.
    pub ending: Option<Ending>,
    /// What a client has asked for.
    pub asked: Option<Cmd>,
}

impl Begun {
    /// At the beginning, as a client has `asked` for.
    pub fn asked(asked: Cmd, journal: Option<Journal>) -> Self {
        Self {
            asked: Some(asked),
            journal,
            ..Self::default()
        }
    }
}

/// One job. Its steps run as a task on the job queue; commands change it from outside.
pub(crate) struct Job {
    options: JobOptions,
    disk: Rc<GuestDisk>,
    asked: Option<Cmd>,
    journal: Option<Journal>,
    from: u64,
    restored: bool,
    status: Cell<JobStatus>,
    len: Cell<u64>,
    offset: Cell<u64>,
    progress: Progress,
    rate: Rate,
    requests_seen: Cell<u64>,
    /// The guest's requests when a step last looked, and steps since they became more.
    guest_seen: Cell<(u64, u32)>,
    paused: Cell<bool>,
    cancelled: Cell<bool>,
    /// Another job of its group has failed.
    called_off: Cell<bool>,
    /// The process ends, and another one may go on.
    left: Cell<bool>,
    finalize: Cell<bool>,
    ending: Cell<Option<Ending>>,
    synced: Cell<Option<bool>>,
    busy: Cell<bool>,
    io_status: Cell<IoStatus>,
    error: RefCell<Option<String>>,
    changed: WaitQueue,
    events: EventSink,
    exec: Rc<Executor>,
}

impl Job {
    pub fn new(
        exec: Rc<Executor>,
        events: EventSink,
        disk: Rc<GuestDisk>,
        options: JobOptions,
        begun: Begun,
    ) -> Self {
        let job = Self {
            rate: Rate::new(options.speed),
            requests_seen: Cell::new(0),
            guest_seen: Cell::new((disk.requests(), GUEST_RESTS)),
            options,
            disk,
            asked: begun.asked,
            journal: begun.journal,
            from: begun.from,
            restored: begun.restored,
            status: Cell::new(JobStatus::Created),
            len: Cell::new(0),
            offset: Cell::new(begun.from),
            progress: Progress::default(),
            paused: Cell::new(begun.paused),
            cancelled: Cell::new(false),
            called_off: Cell::new(false),
            left: Cell::new(false),
            finalize: Cell::new(false),
            ending: Cell::new(begun.ending),
            synced: Cell::default(),
            busy: Cell::new(true),
            io_status: Cell::default(),
            error: RefCell::default(),
            changed: WaitQueue::default(),
            events,
            exec,
        };
        job.tell_status();
        job
    }

    pub fn id(&self) -> &str {
        self.options.id.as_str()
    }

    pub fn options(&self) -> &JobOptions {
        &self.options
    }

    /// What a client has asked for, if one has.
    pub fn asked(&self) -> Option<&Cmd> {
        self.asked.as_ref()
    }

    /// The disk that the job works on and holds.
    pub fn disk(&self) -> &Rc<GuestDisk> {
        &self.disk
    }

    pub fn status(&self) -> JobStatus {
        self.status.get()
    }

    /// Changes the state and reports that to the clients.
    pub fn set_status(&self, status: JobStatus) {
        let before = self.status.replace(status);
        debug_assert!(may_follow(before, status), "{before:?} to {status:?}");
        self.progress.follow(status);
        self.tell_status();
    }

    fn tell_status(&self) {
        self.emit(Event::JobStatusChange {
            id: self.id().to_owned(),
            status: self.status.get(),
        });
    }

    /// From now on the client may complete the job.
    pub fn become_ready(&self) {
        self.set_status(JobStatus::Ready);
        self.emit(Event::JobReady(self.end()));
    }

    /// Whether the client may complete the job.
    pub fn is_ready(&self) -> bool {
        matches!(self.status.get(), JobStatus::Ready | JobStatus::Standby)
    }

    /// How the client has the job end, once it has said so.
    pub fn ending(&self) -> Option<Ending> {
        self.ending.get()
    }

    /// Has a job that is ready end so, unless it is on its way to another end.
    pub fn end_by(&self, ending: Ending) {
        if self.ending.get().is_none() {
            self.ending.set(Some(ending));
        }
        self.changed.wake_all();
    }

    pub fn exec(&self) -> &Rc<Executor> {
        &self.exec
    }

    pub fn emit(&self, event: Event) {
        (self.events.borrow_mut())(event);
    }

    /// What it has copied, and has to.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Bytes to look at in all.
    pub fn set_len(&self, len: u64) {
        self.len.set(len);
    }

    /// There are so many more bytes to look at.
    pub fn add_len(&self, bytes: u64) {
        self.len.set(self.len.get() + bytes);
    }

    /// Whether what the job makes is a copy of the disk at any moment, for jobs that come to that.
    pub fn set_synced(&self, synced: bool) {
        self.synced.set(Some(synced));
    }

    /// Bytes looked at so far.
    pub fn offset(&self) -> u64 {
        self.offset.get()
    }

    /// Bytes looked at so far.
    pub fn set_offset(&self, offset: u64) {
        self.offset.set(offset);
    }

    /// Notes that `bytes` have been copied, for the speed limit.
    pub fn charge(&self, bytes: u64) {
        self.rate.charge(bytes, Instant::now());
    }

    pub fn speed(&self) -> u64 {
        self.rate.speed()
    }

    pub fn set_speed(&self, speed: u64) {
        self.rate.set_speed(speed);
        self.changed.wake_all();
    }

    pub fn is_paused(&self) -> bool {
        self.paused.get()
    }

    pub fn pause(&self) {
        self.paused.set(true);
    }

    pub fn resume(&self) {
        self.paused.set(false);
        self.io_status.set(IoStatus::Ok);
        self.changed.wake_all();
    }

    pub fn reset_io_status(&self) {
        self.io_status.set(IoStatus::Ok);
    }

    /// Ends the job, also one that is paused.
    pub fn cancel(&self) {
        self.cancelled.set(true);
        self.stop();
    }

    /// Ends the job, since the process ends. Where jobs are recorded another process may go on.
    pub fn leave(&self) {
        if !self.is_to_stop() {
            self.left.set(true);
            self.cancel();
        }
    }

    /// Ends the job, since another one of its group has failed.
    pub(super) fn call_off(&self) {
        self.called_off.set(true);
        self.stop();
    }

    fn stop(&self) {
        self.paused.set(false);
        self.changed.wake_all();
        if let Some(group) = &self.options.group {
            group.wake();
        }
    }

    /// Whether it is to end before it is done.
    pub(super) fn is_to_stop(&self) -> bool {
        self.cancelled.get() || self.called_off.get()
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.get()
    }

    /// Lets a job that is pending finish, and with it those of its group.
    pub fn finalize(&self) {
        match &self.options.group {
            None => self.finalize_alone(),
            Some(group) => group.jobs().iter().for_each(|job| job.finalize_alone()),
        }
    }

    fn finalize_alone(&self) {
        self.finalize.set(true);
        self.changed.wake_all();
    }

    pub fn fail(&self, why: String) {
        *self.error.borrow_mut() = Some(why);
    }

    pub fn error(&self) -> Option<String> {
        self.error.borrow().clone()
    }

    /// Between two steps: lets others run, honours pause, speed and cancel.
    ///
    /// # Errors
    /// [`IoError::Cancelled`] once the job is to stop.
    pub async fn checkpoint(&self) -> IoResult<()> {
        let none = TaskGroup::new(&self.exec, Queue::Job, "no step");
        self.checkpoint_draining(&none).await
    }

    /// As [`Job::checkpoint`], for a job with `steps` under way: they go on, but have ended before
    /// the job is paused or stops.
    ///
    /// # Errors
    /// As [`Job::checkpoint`].
    pub async fn checkpoint_draining(&self, steps: &TaskGroup) -> IoResult<()> {
        yield_now().await;
        self.busy.set(false);
        self.nap().await;
        if self.paused.get() || self.is_to_stop() {
            steps.drain().await;
        }
        self.wait_while_paused().await;
        self.busy.set(true);
        if self.is_to_stop() {
            Err(IoError::Cancelled)
        } else {
            Ok(())
        }
    }

    /// How long the job's last steps have held the device thread in one go, at most. Called by the
    /// job's task.
    pub fn held_the_thread(&self) -> Duration {
        self.exec.take_longest_poll()
    }

    /// Whether the guest wants anything of the disk. Called for each step.
    pub(super) fn guest(&self) -> Guest {
        let (sent, under_way) = (self.disk.requests(), self.disk.gate().inside());
        // Steps are counted, for the clock would make simulations differ.
        let (seen, steps) = self.guest_seen.get();
        let steps = if sent != seen || under_way > 0 {
            0
        } else {
            steps.saturating_add(1)
        };
        self.guest_seen.set((sent, steps));
        if steps < GUEST_RESTS {
            Guest::Works { under_way }
        } else {
            Guest::Rests
        }
    }

    /// Does nothing for so long, if the guest has sent requests since the last time.
    pub async fn rest(&self, pause: Duration) {
        let sent = self.disk.requests();
        if self.requests_seen.replace(sent) != sent && !pause.is_zero() {
            self.exec.sleep_until(Instant::now() + pause).await;
        }
    }

    /// Sleeps until the speed limit allows another step.
    async fn nap(&self) {
        while let Some(until) = self.rate.wait_until(Instant::now())
            && !self.is_to_stop()
            && !self.paused.get()
        {
            self.exec
                .sleep_until(until.min(Instant::now() + LONGEST_NAP))
                .await;
        }
    }

    async fn wait_while_paused(&self) {
        if !self.paused.get() || self.is_to_stop() {
            return;
        }
        let (paused, goes_on) = if self.is_ready() {
            (JobStatus::Standby, JobStatus::Ready)
        } else {
            (JobStatus::Paused, JobStatus::Running)
        };
        self.set_status(paused);
        while self.paused.get() && !self.is_to_stop() {
            self.changed.wait().await;
        }
        self.set_status(goes_on);
    }

    /// Waits until the client wants something, or for a while.
    pub async fn wait_for_change(&self) {
        if self.ending.get().is_some() || self.paused.get() || self.is_to_stop() {
            return;
        }
        let deadline = Instant::now() + LONGEST_NAP;
        self.busy.set(false);
        self.exec.sleep_or(deadline, self.changed.wait()).await;
        self.busy.set(true);
    }

    /// Waits until all jobs of its group have come to `stage`; those without a group do not wait.
    ///
    /// # Errors
    /// [`IoError::Cancelled`] if it is not to go on.
    pub(super) async fn meet(&self, stage: Stage) -> IoResult<()> {
        let Some(group) = &self.options.group else {
            return Ok(());
        };
        self.busy.set(false);
        let met = group.meet(self, stage).await;
        self.busy.set(true);
        if met { Ok(()) } else { Err(IoError::Cancelled) }
    }

    /// Waits for `job-finalize` where the user asked to be asked, of this job or another one of its
    /// group.
    ///
    /// # Errors
    /// [`IoError::Cancelled`] if the job is cancelled instead.
    pub async fn wait_for_finalize(&self) -> IoResult<()> {
        self.set_status(JobStatus::Pending);
        if !self.options.auto_finalize {
            self.emit(Event::JobPending {
                kind: self.options.kind,
                id: self.id().to_owned(),
            });
        }
        if !self.has_to_be_finalized() {
            self.progress.enter(JobPhase::Finishing);
            return Ok(());
        }
        self.busy.set(false);
        while !self.finalize.get() && !self.is_to_stop() {
            self.changed.wait().await;
        }
        self.busy.set(true);
        if self.is_to_stop() {
            Err(IoError::Cancelled)
        } else {
            self.progress.enter(JobPhase::Finishing);
            Ok(())
        }
    }

    fn has_to_be_finalized(&self) -> bool {
        let by_itself = |job: &Job| job.options.auto_finalize;
        match &self.options.group {
            None => !by_itself(self),
            Some(group) => !group.jobs().iter().all(|job| by_itself(job)),
        }
    }

    /// Waits a while before a step is tried again that has failed, unless the job is paused: then
    /// it waits for its user.
    pub async fn wait_before_retry(&self) {
        if !self.is_paused() && !self.is_cancelled() {
            let deadline = Instant::now() + LONGEST_NAP;
            self.exec.sleep_or(deadline, self.changed.wait()).await;
        }
    }

    /// What an I/O error does: `Ok(true)` to try the step again, `Ok(false)` to leave it out and
    /// fail at the end.
    ///
    /// # Errors
    /// `error` again if the job has to fail now.
    pub fn on_io_error(&self, operation: &str, error: IoError) -> IoResult<bool> {
        let nospace = matches!(error, IoError::NoSpace { .. });
        let stop = match self.options.on_error {
            OnError::Stop => true,
            OnError::Enospc | OnError::Auto => nospace,
            OnError::Report | OnError::Ignore => false,
        };
        let ignore = self.options.on_error == OnError::Ignore;
        // As with QEMU: a commit that left something out would be of no use to anybody.
        let again = ignore && self.options.kind == JobType::Commit;
        let action = if stop {
            "stop"
        } else if ignore {
            "ignore"
        } else {
            "report"
        };
        self.emit(Event::JobError {
            device: self.id().to_owned(),
            operation: operation.to_owned(),
            action: action.to_owned(),
        });
        if stop {
            self.io_status.set(IoStatus::of(&error));
            self.pause();
            return Ok(true);
        }
        if again {
            self.io_status.set(IoStatus::of(&error));
            return Ok(true);
        }
        self.fail(error.to_string());
        if ignore { Ok(false) } else { Err(error) }
    }
}
