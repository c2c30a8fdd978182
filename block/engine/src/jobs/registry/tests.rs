use std::{cell::RefCell, rc::Rc};

use strata_graph::Names;

use super::Jobs;
use crate::{
    api::{CmdError, ErrorClass, EventSink, JobStatus, JobType, OnError},
    engine::Engine,
    jobs::{Begun, Ending, Job, JobOptions, one_disk::engine},
};

use JobStatus::{
    Aborting, Concluded, Created, Null, Paused, Pending, Ready, Running, Standby, Waiting,
};

const ID: &str = "job0";

/// What a client says to a job.
type Command = fn(&Jobs) -> Result<(), CmdError>;

const COMMANDS: [(&str, Command); 8] = [
    ("cancel", |jobs| jobs.cancel(ID, true)),
    ("cancel", |jobs| jobs.cancel(ID, false)),
    ("pause", |jobs| jobs.pause(ID)),
    ("resume", |jobs| jobs.resume(ID)),
    ("set-speed", |jobs| jobs.set_speed(ID, 1)),
    ("complete", |jobs| jobs.complete(ID)),
    ("finalize", |jobs| jobs.finalize(ID)),
    ("dismiss", |jobs| jobs.dismiss(ID)),
];

/// A way to each state.
const PATHS: [&[JobStatus]; 10] = [
    &[Created],
    &[Created, Running],
    &[Created, Running, Paused],
    &[Created, Running, Ready],
    &[Created, Running, Ready, Standby],
    &[Created, Running, Waiting],
    &[Created, Running, Waiting, Pending],
    &[Created, Running, Aborting],
    &[Created, Running, Aborting, Concluded],
    &[Created, Running, Aborting, Concluded, Null],
];

/// What QEMU answers, for the states in the order of [`PATHS`] and the commands in that of
/// [`COMMANDS`]: `+` takes it, `V` names verb and state, `P` and `A` say that it is paused,
/// `N` that it is not.
const ANSWERS: [&str; 9] = [
    "+++N+VVV", "+++N+VVV", "+PA++VVV", "+++N++VV", "+PA+++VV", "++VNVVVV", "++VNVV+V", "VVVNVVVV",
    "VVVNVVV+",
];

/// A job that has come to a state on `path`, of which nothing is carried out.
fn job_in(engine: &Engine, path: &[JobStatus]) -> (Jobs, Rc<Job>) {
    let options = JobOptions {
        id: Names::default().job(ID).unwrap(),
        kind: JobType::Commit,
        speed: 0,
        on_error: OnError::Report,
        auto_finalize: true,
        auto_dismiss: false,
        group: None,
    };
    let disk = engine.find_disk("virtio0").unwrap();
    let nobody: EventSink = Rc::new(RefCell::new(Box::new(drop)));
    let job = Job::new(
        engine.exec().clone(),
        nobody,
        disk,
        options,
        Begun::default(),
    );
    let (jobs, job) = (Jobs::default(), Rc::new(job));
    jobs.insert(job.clone());
    for status in &path[1..] {
        match status {
            Null => {
                jobs.remove(&job);
                continue;
            }
            Paused | Standby => job.pause(),
            _ => {}
        }
        job.set_status(*status);
    }
    (jobs, job)
}

#[test]
fn every_command_gets_qemus_answer_in_every_state() {
    let (engine, _directory) = engine();
    for (path, answers) in PATHS.iter().zip(ANSWERS) {
        for ((verb, command), answer) in COMMANDS.iter().zip(answers.chars()) {
            let (jobs, job) = job_in(&engine, path);
            let status = serde_json::to_value(job.status()).unwrap();
            let state = status.as_str().unwrap();
            let expected = match answer {
                '+' => Ok(()),
                'V' => Err(format!(
                    "Job 'job0' in state '{state}' cannot accept command verb '{verb}'"
                )),
                'P' => Err("The block job for device 'job0' is currently paused".to_owned()),
                'A' => Err("Job is already paused".to_owned()),
                'N' => Err("Can't resume a job that was not paused".to_owned()),
                other => panic!("{other}"),
            };
            let got = command(&jobs);
            if let Err(error) = &got {
                assert_eq!(error.class, ErrorClass::GenericError);
            }
            assert_eq!(got.map_err(|error| error.desc), expected, "{verb}, {state}");
        }
    }
}

#[test]
fn a_job_that_is_gone_is_not_found() {
    let (engine, _directory) = engine();
    let path = PATHS.last().unwrap();
    for (_, command) in COMMANDS {
        let (jobs, job) = job_in(&engine, path);
        assert_eq!(job.status(), Null);
        let error = command(&jobs).unwrap_err();
        assert_eq!(error.class, ErrorClass::DeviceNotActive);
        assert_eq!(error.desc, "Block job 'job0' not found");
    }
}

#[test]
fn a_job_on_its_way_to_an_end_is_not_sent_to_another() {
    let (engine, _directory) = engine();
    let ready = PATHS[3];
    let refused = "The active block job 'job0' cannot be completed";
    for force in [false, true] {
        let (jobs, _job) = job_in(&engine, ready);
        jobs.cancel(ID, force).unwrap();
        assert_eq!(jobs.complete(ID).unwrap_err().desc, refused);
    }
    // What is to be completed still is when it is cancelled as well, but by force.
    let (jobs, job) = job_in(&engine, ready);
    jobs.complete(ID).unwrap();
    jobs.complete(ID).unwrap();
    jobs.cancel(ID, false).unwrap();
    assert_eq!(job.ending(), Some(Ending::TakeOver));
    assert!(!job.is_cancelled());
}

#[test]
fn a_job_that_is_cancelled_is_not_paused_any_more() {
    let (engine, _directory) = engine();
    let (jobs, job) = job_in(&engine, PATHS[2]);
    jobs.cancel(ID, true).unwrap();
    assert!(job.is_cancelled() && !job.is_paused());
    assert!(!jobs.block_jobs()[0].paused);
}
