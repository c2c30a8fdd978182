//! Waiting for a job to end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use indicatif::{MultiProgress, ProgressDrawTarget};
use serde_json::{Value, json};
use signal_hook::{consts::SIGINT, flag};

use super::{
    client::{Client, Event, text},
    error::CtlError,
    pretty, print,
    progress::{Figures, Progress},
};

/// Jobs that merge layers of disks, each of which gives its job its id.
pub(super) struct Merge<'a> {
    /// One, or several that end as one.
    pub disks: &'a [String],
    /// What it does and has done, in words: `merging`, `merged`.
    pub doing: &'static str,
    pub done: &'static str,
    /// Otherwise it is to be completed when it is ready.
    pub ends_by_itself: bool,
}

/// Waits until the jobs have ended, and completes them when they are ready.
///
/// # Errors
/// They have failed or were cancelled; Ctrl-C; the connection.
pub(super) fn until_ended(
    client: &mut Client,
    merge: &Merge<'_>,
    json: bool,
) -> Result<(), CtlError> {
    let interrupted = watch_for_interrupt();
    let (begin, disks) = (Instant::now(), merge.disks);
    let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
    let mut under_way = Vec::new();
    for disk in disks {
        let subject = format!("{disk}: {}", merge.doing);
        under_way.push((&**disk, Progress::start(subject, json, &bars)?));
    }
    let (mut next_look, mut ended) = (begin, Vec::new());
    while let Some((_, first)) = under_way.first() {
        let interval = first.interval();
        if interrupted.load(Ordering::Relaxed) {
            under_way.into_iter().for_each(|(_, bar)| bar.end());
            return Err(CtlError::Interrupted(goes_on(merge)));
        }
        if Instant::now() >= next_look {
            look(client, &mut under_way)?;
            next_look = Instant::now() + interval;
        }
        let Some(event) = client.event(next_look)? else {
            continue;
        };
        let device = text(&event.data, "device");
        let Some(job) = under_way.iter().position(|(disk, _)| *disk == device) else {
            continue;
        };
        match event.name.as_str() {
            "BLOCK_JOB_READY" => {
                client.execute("block-job-complete", json!({"device": device}))?;
            }
            "BLOCK_JOB_COMPLETED" | "BLOCK_JOB_CANCELLED" => {
                under_way.remove(job).1.end();
                ended.push(event);
            }
            _ => {}
        }
    }
    report(merge, &ended, begin, json)
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
    let disk = &merge.disks[0];
    let ready = if merge.ends_by_itself {
        String::new()
    } else {
        format!(", hmp 'block_job_complete {disk}' completes it once it is ready")
    };
    format!("the job goes on: 'jobs' shows it, hmp 'block_job_cancel {disk}' ends it{ready}")
}

/// Shows how far the jobs are.
fn look(client: &mut Client, under_way: &mut [(&str, Progress)]) -> Result<(), CtlError> {
    let jobs = client.execute("query-block-jobs", json!({}))?;
    for (id, progress) in under_way {
        let is_it = |job: &&Value| text(job, "device") == *id;
        // The end of one that is gone is among the events.
        if let Some(job) = jobs.as_array().into_iter().flatten().find(is_it) {
            progress.show(Figures::of(job), state(job))?;
        }
    }
    Ok(())
}

/// What there is to say of a job besides that it copies.
fn state(job: &Value) -> &'static str {
    match (text(job, "status"), text(job, "io-status")) {
        ("paused" | "standby", "nospace") => "paused: no space left",
        ("paused" | "standby", "failed") => "paused by an error",
        ("paused" | "standby", _) => "paused",
        ("pending", _) if job["auto-finalize"] == false => "waits for job-finalize",
        _ => match text(job, "x-phase") {
            "counting" => "counting",
            "catching-up" => "catching up with the guest",
            "waiting" => "waits for the others",
            "finishing" => "finishing",
            "undoing" => "undoing",
            _ => "",
        },
    }
}

/// Says what came of the jobs.
fn report(merge: &Merge<'_>, ended: &[Event], begin: Instant, json: bool) -> Result<(), CtlError> {
    let (done, seconds) = (merge.done, begin.elapsed().as_secs_f64());
    let mut failed = None;
    for event in ended {
        let (data, disk) = (&event.data, text(&event.data, "device"));
        let (status, error) = match (event.name.as_str(), text(data, "error")) {
            ("BLOCK_JOB_CANCELLED", _) => ("cancelled", format!("{disk}: the job was cancelled")),
            (_, "") => ("completed", String::new()),
            (_, why) => ("failed", format!("{disk}: not {done}: {why}")),
        };
        if json {
            let mut outcome = data.clone();
            outcome["status"] = status.into();
            outcome["seconds"] = seconds.into();
            print(&pretty(&outcome))?;
        } else if status == "completed" {
            print(&format!("{disk}: {done} in {seconds:.1} s\n"))?;
        }
        if status != "completed" {
            failed.get_or_insert(error);
        }
    }
    failed.map_or(Ok(()), |error| Err(CtlError::Job(error)))
}
