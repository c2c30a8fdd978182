use std::{cell::RefCell, rc::Rc};

use strata_graph::Names;
use strata_storage::error::{Error, IoError, IoResult};

use super::{Ending, Work, may_follow};
use crate::{
    api::{CmdError, Event, EventSink, JobStatus, JobType, OnError},
    engine::Engine,
    jobs::{Begun, Job, JobOptions, Jobs, Membership, one_disk},
};

/// A kind of job that copies nothing, and notes what is asked of it.
struct Script {
    converges: bool,
    /// The step that fails, or nothing.
    fails: &'static str,
    log: Log,
}

type Log = Rc<RefCell<Vec<String>>>;

impl Script {
    fn note(&self, what: &str) {
        self.log.borrow_mut().push(what.to_owned());
    }

    /// A step that may fail.
    fn step(&self, what: &str) -> Result<(), Error> {
        self.note(what);
        if self.fails == what {
            Err(IoError::OutOfRange.into())
        } else {
            Ok(())
        }
    }
}

impl Work for Script {
    async fn run(&self, job: &Job) -> Result<(), Error> {
        self.note("run");
        job.set_len(7);
        job.checkpoint().await?;
        job.set_offset(7);
        Ok(())
    }

    fn converges(&self) -> bool {
        self.converges
    }

    async fn converge(&self, _job: &Job) -> IoResult<()> {
        let again = self
            .log
            .borrow()
            .last()
            .is_some_and(|last| last == "converge");
        if !again {
            self.note("converge");
        }
        Ok(())
    }

    async fn complete(&self, job: &Job) -> IoResult<()> {
        self.note(match job.ending().unwrap() {
            Ending::TakeOver => "complete: take over",
            Ending::Leave => "complete: leave",
            Ending::Empty => "complete: empty",
        });
        Ok(())
    }

    async fn settle(&self, _job: &Job) -> Result<(), Error> {
        self.step("settle")
    }

    async fn write_header(&self, _job: &Job) -> Result<(), Error> {
        self.step("write header")
    }

    async fn restore_header(&self, _job: &Job) -> Result<(), Error> {
        self.step("restore header")
    }

    async fn finish(&self, _job: &Job) -> Result<(), Error> {
        self.step("finish")
    }

    async fn undo(&self, _job: &Job) {
        self.note("undo");
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.note("dropped");
    }
}

/// A job on a disk, and the events it sends.
struct Bench {
    engine: Rc<Engine>,
    jobs: Rc<Jobs>,
    log: Log,
    _directory: tempfile::TempDir,
}

const ID: &str = "job";

impl Bench {
    fn start(converges: bool, fails: &'static str, auto_finalize: bool) -> Self {
        let bench = Self::new();
        bench.begin(ID, converges, fails, (auto_finalize, None));
        bench
    }

    fn new() -> Self {
        let (engine, directory) = one_disk::engine();
        Self {
            jobs: Rc::default(),
            log: Log::default(),
            engine,
            _directory: directory,
        }
    }

    fn begin(
        &self,
        id: &str,
        converges: bool,
        fails: &'static str,
        (auto_finalize, group): (bool, Option<Membership>),
    ) {
        let script = Script {
            converges,
            fails,
            log: self.log.clone(),
        };
        let log = self.log.clone();
        let record = move |event| log.borrow_mut().push(describe(&event));
        let events: EventSink = Rc::new(RefCell::new(Box::new(record)));
        let options = JobOptions {
            id: Names::default().job(id).unwrap(),
            kind: JobType::Stream,
            speed: 0,
            on_error: OnError::Report,
            auto_finalize,
            auto_dismiss: true,
            group,
        };
        let disk = self.engine.find_disk("virtio0").unwrap();
        let job = Job::new(
            self.engine.exec().clone(),
            events,
            disk,
            options,
            Begun::default(),
        );
        self.jobs.start(job, script);
    }

    /// Two jobs of a group, the second of which fails at a step. What both have done.
    fn group(fails: &'static str) -> Vec<String> {
        let bench = Self::new();
        for (id, fails) in [("one", ""), ("two", fails)] {
            let place = bench.jobs.join("g", Some(2)).unwrap();
            bench.begin(id, false, fails, (true, Some(place)));
        }
        while !bench.jobs.jobs().is_empty() {
            bench.engine.poll();
        }
        bench.events()
    }

    /// Lets it run until the last event is `what`.
    fn until(&self, what: &str) {
        while self.log.borrow().last().is_none_or(|last| last != what) {
            self.engine.poll();
        }
    }

    fn events(&self) -> Vec<String> {
        self.log.take()
    }

    fn status(&self) -> (JobStatus, bool) {
        let jobs = self.jobs.block_jobs();
        (jobs[0].status, jobs[0].ready)
    }
}

fn describe(event: &Event) -> String {
    match event {
        Event::JobStatusChange { status, .. } => format!("{status:?}"),
        Event::JobReady(end) => format!("BLOCK_JOB_READY {} of {}", end.offset, end.len),
        Event::JobCompleted(_, None) => "BLOCK_JOB_COMPLETED".to_owned(),
        Event::JobCompleted(_, Some(why)) => format!("BLOCK_JOB_COMPLETED: {why}"),
        Event::JobCancelled(_) => "BLOCK_JOB_CANCELLED".to_owned(),
        Event::JobPending { .. } => "BLOCK_JOB_PENDING".to_owned(),
        other => panic!("{other:?}"),
    }
}

fn desc(result: Result<(), CmdError>) -> String {
    result.unwrap_err().desc
}

#[test]
fn a_job_that_does_not_converge_cannot_be_completed() {
    let bench = Bench::start(false, "", false);
    let refused = "Job 'job' in state 'running' cannot accept command verb 'complete'";
    assert_eq!(desc(bench.jobs.complete(ID)), refused);
    bench.until("BLOCK_JOB_PENDING");
    assert_eq!(bench.status(), (JobStatus::Pending, false));
    bench.jobs.finalize(ID).unwrap();
    bench.until("Null");
    let life = [
        "Created",
        "Running",
        "run",
        "Waiting",
        "Pending",
        "BLOCK_JOB_PENDING",
        "settle",
        "write header",
        "finish",
        "dropped",
        "BLOCK_JOB_COMPLETED",
        "Concluded",
        "Null",
    ];
    assert_eq!(bench.events(), life);
    assert!(bench.jobs.jobs().is_empty());
}

#[test]
fn a_job_that_converges_is_ready_until_its_client_completes_it() {
    let bench = Bench::start(true, "", true);
    bench.until("converge");
    assert_eq!(bench.status(), (JobStatus::Ready, true));
    bench.jobs.pause(ID).unwrap();
    bench.until("Standby");
    assert_eq!(bench.status(), (JobStatus::Standby, true));
    bench.jobs.resume(ID).unwrap();
    bench.until("converge");
    bench.jobs.complete(ID).unwrap();
    bench.until("Null");
    let life = [
        "Created",
        "Running",
        "run",
        "Ready",
        "BLOCK_JOB_READY 7 of 7",
        "converge",
        "Standby",
        "Ready",
        "converge",
        "complete: take over",
        "Waiting",
        "Pending",
        "settle",
        "write header",
        "finish",
        "dropped",
        "BLOCK_JOB_COMPLETED",
        "Concluded",
        "Null",
    ];
    assert_eq!(bench.events(), life);
}

#[test]
fn a_ready_job_that_is_cancelled_ends_well_but_by_force() {
    let bench = Bench::start(true, "", true);
    bench.until("converge");
    bench.events();
    bench.jobs.cancel(ID, false).unwrap();
    bench.until("Null");
    let life = [
        "complete: leave",
        "Waiting",
        "Pending",
        "settle",
        "write header",
        "finish",
        "dropped",
        "BLOCK_JOB_COMPLETED",
        "Concluded",
        "Null",
    ];
    assert_eq!(bench.events(), life);

    let bench = Bench::start(true, "", true);
    bench.until("converge");
    bench.events();
    bench.jobs.cancel(ID, true).unwrap();
    bench.until("Null");
    let life = [
        "Aborting",
        "undo",
        "dropped",
        "BLOCK_JOB_CANCELLED",
        "Concluded",
        "Null",
    ];
    assert_eq!(bench.events(), life);
}

#[test]
fn a_job_that_cannot_finish_is_undone() {
    let bench = Bench::start(false, "finish", true);
    bench.until("Null");
    let failed = format!("BLOCK_JOB_COMPLETED: {}", Error::from(IoError::OutOfRange));
    let life = [
        "Created",
        "Running",
        "run",
        "Waiting",
        "Pending",
        "settle",
        "write header",
        "finish",
        "Aborting",
        "undo",
        "dropped",
        &failed,
        "Concluded",
        "Null",
    ];
    assert_eq!(bench.events(), life);
}

#[test]
fn a_job_cancelled_while_it_waits_for_its_client_is_undone() {
    let bench = Bench::start(false, "", false);
    bench.until("BLOCK_JOB_PENDING");
    bench.events();
    bench.jobs.cancel(ID, false).unwrap();
    bench.until("Null");
    let life = [
        "Aborting",
        "undo",
        "dropped",
        "BLOCK_JOB_CANCELLED",
        "Concluded",
        "Null",
    ];
    assert_eq!(bench.events(), life);
}

#[test]
fn a_paused_job_is_cancelled_by_force_only() {
    let bench = Bench::start(false, "", true);
    bench.jobs.pause(ID).unwrap();
    bench.until("Paused");
    let refused = "The block job for device 'job' is currently paused";
    assert_eq!(desc(bench.jobs.cancel(ID, false)), refused);
    bench.jobs.cancel(ID, true).unwrap();
    bench.until("Null");
    let life = [
        "Created",
        "Running",
        "run",
        "Paused",
        "Running",
        "Aborting",
        "undo",
        "dropped",
        "BLOCK_JOB_CANCELLED",
        "Concluded",
        "Null",
    ];
    assert_eq!(bench.events(), life);
}

/// How often a group's jobs have done something.
fn count(log: &[String], what: &str) -> usize {
    log.iter().filter(|entry| *entry == what).count()
}

#[test]
fn jobs_of_a_group_take_each_step_together() {
    let log = Bench::group("");
    let steps = ["Waiting", "Pending", "settle", "write header", "finish"];
    let of_steps = log.iter().filter(|entry| steps.contains(&entry.as_str()));
    // Which begins to finish first is open, not that both have waited for each other.
    let expected = [
        "Waiting",
        "Waiting",
        "Pending",
        "settle",
        "Pending",
        "settle",
        "write header",
        "write header",
        "finish",
        "finish",
    ];
    assert!(of_steps.eq(&expected), "{log:?}");
    assert_eq!(count(&log, "BLOCK_JOB_COMPLETED"), 2);
}

#[test]
fn one_that_cannot_write_its_header_has_others_take_theirs_back() {
    for (fails, written, taken_back) in [("settle", 0, 0), ("write header", 2, 1)] {
        let log = Bench::group(fails);
        assert_eq!(count(&log, "write header"), written, "{log:?}");
        assert_eq!(count(&log, "restore header"), taken_back, "{log:?}");
        assert_eq!((count(&log, "finish"), count(&log, "undo")), (0, 2));
        let why = Error::from(IoError::OutOfRange);
        for failed in [
            format!("BLOCK_JOB_COMPLETED: {why}"),
            format!(
                "BLOCK_JOB_COMPLETED: Group 'g' ends: disk 'virtio0' (job 'two') failed: {why}"
            ),
        ] {
            assert_eq!(count(&log, &failed), 1, "{log:?}");
        }
    }
    // The graphs of the others have followed already.
    let log = Bench::group("finish");
    assert_eq!((count(&log, "finish"), count(&log, "undo")), (2, 1));
    assert_eq!(count(&log, "BLOCK_JOB_COMPLETED"), 1);
}

#[test]
fn states_follow_each_other_as_in_qemus_table() {
    use JobStatus::{
        Aborting, Concluded, Created, Null, Paused, Pending, Ready, Running, Standby, Waiting,
    };
    let all = [
        Created, Running, Paused, Ready, Standby, Waiting, Pending, Aborting, Concluded, Null,
    ];
    // From the states in this order, a line for each, to the same ones.
    let table = [
        ".1.....1.1",
        "..11.1.1..",
        ".1........",
        "....11.1..",
        "...1......",
        "......11..",
        ".......11.",
        "........1.",
        ".........1",
        "..........",
    ];
    for (from, row) in all.iter().zip(table) {
        for (to, cell) in all.iter().zip(row.chars()) {
            assert_eq!(may_follow(*from, *to), cell == '1', "{from:?} to {to:?}");
        }
    }
}
