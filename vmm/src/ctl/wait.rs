//! Waiting for a job to end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use serde_json::{Value, json};
use signal_hook::{consts::SIGINT, flag};

use super::{
    client::{Client, Event, text},
    error::CtlError,
    pretty, print,
    progress::{Figures, Progress},
};

/// A job that merges layers of a disk, which gives it its id.
pub(super) struct Merge<'a> {
    pub disk: &'a str,
    /// What it does and has done, in words: `merging`, `merged`.
    pub doing: &'static str,
    pub done: &'static str,
    /// Otherwise it is to be completed when it is ready.
    pub ends_by_itself: bool,
}

/// Waits until the job has ended, and completes it when it is ready.
///
/// # Errors
/// It has failed or was cancelled; Ctrl-C; the connection.
pub(super) fn until_ended(
    client: &mut Client,
    merge: Merge<'_>,
    json: bool,
) -> Result<(), CtlError> {
    let interrupted = watch_for_interrupt();
    let Merge { disk, doing, .. } = merge;
    let begin = Instant::now();
    let mut progress = Progress::start(format!("{disk}: {doing}"), json)?;
    let mut next_look = begin;
    let ended = loop {
        if interrupted.load(Ordering::Relaxed) {
            progress.end();
            return Err(CtlError::Interrupted(goes_on(&merge)));
        }
        if Instant::now() >= next_look {
            look(client, disk, &mut progress)?;
            next_look = Instant::now() + progress.interval();
        }
        let Some(event) = client.event(next_look)? else {
            continue;
        };
        if text(&event.data, "device") != disk {
            continue;
        }
        match event.name.as_str() {
            "BLOCK_JOB_READY" => {
                client.execute("block-job-complete", json!({"device": disk}))?;
            }
            "BLOCK_JOB_COMPLETED" | "BLOCK_JOB_CANCELLED" => break event,
            _ => {}
        }
    };
    progress.end();
    report(&merge, &ended, begin, json)
}

/// Ctrl-C is noted here from now on; a second one ends the program, should the other side hang.
fn watch_for_interrupt() -> Arc<AtomicBool> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let second = flag::register_conditional_shutdown(SIGINT, 130, interrupted.clone());
    let first = flag::register(SIGINT, interrupted.clone());
    if let Err(error) = second.and(first) {
        tracing::warn!(%error, "Ctrl-C will end the program without a word");
    }
    interrupted
}

fn goes_on(merge: &Merge<'_>) -> String {
    let Merge { disk, .. } = merge;
    let ready = if merge.ends_by_itself {
        String::new()
    } else {
        format!(", hmp 'block_job_complete {disk}' completes it once it is ready")
    };
    format!("the job goes on: 'jobs' shows it, hmp 'block_job_cancel {disk}' ends it{ready}")
}

/// Shows how far the job is.
fn look(client: &mut Client, id: &str, progress: &mut Progress) -> Result<(), CtlError> {
    let jobs = client.execute("query-block-jobs", json!({}))?;
    let is_it = |job: &&Value| text(job, "device") == id;
    let Some(job) = jobs.as_array().into_iter().flatten().find(is_it) else {
        // Its end is among the events.
        return Ok(());
    };
    let state = match (text(job, "status"), text(job, "io-status")) {
        ("paused" | "standby", "nospace") => "paused: no space left",
        ("paused" | "standby", "failed") => "paused by an error",
        ("paused" | "standby", _) => "paused",
        _ => match text(job, "x-phase") {
            "counting" => "counting",
            "catching-up" => "catching up with the guest",
            "waiting" => "waits for job-finalize",
            "finishing" => "finishing",
            "undoing" => "undoing",
            _ => "",
        },
    };
    progress.show(Figures::of(job), state)
}

/// Says what came of the job.
fn report(merge: &Merge<'_>, ended: &Event, begin: Instant, json: bool) -> Result<(), CtlError> {
    let Merge { disk, done, .. } = merge;
    let (data, seconds) = (&ended.data, begin.elapsed().as_secs_f64());
    let error = match (ended.name.as_str(), text(data, "error")) {
        ("BLOCK_JOB_CANCELLED", _) => Some(format!("{disk}: the job was cancelled")),
        (_, "") => None,
        (_, why) => Some(format!("{disk}: not {done}: {why}")),
    };
    if json {
        let mut outcome = data.clone();
        outcome["status"] = match (&error, ended.name.as_str()) {
            (None, _) => "completed",
            (_, "BLOCK_JOB_CANCELLED") => "cancelled",
            _ => "failed",
        }
        .into();
        outcome["seconds"] = seconds.into();
        print(&pretty(&outcome))?;
    }
    match error {
        Some(error) => Err(CtlError::Job(error)),
        None if json => Ok(()),
        None => print(&format!("{disk}: {done} in {seconds:.1} s\n")),
    }
}
