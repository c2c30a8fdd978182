//! Step 7 of the main job: SIGKILL loses nothing that was flushed, and a merge goes on in the next
//! process, or can be started again.

use super::layers::{self, Disks, History, Merge, Progress};
use crate::error::{Context, Outcome, ensure};
use crate::fixture::Fixture;
use crate::machine::Machine;
use crate::serial::Verified;
use std::path::Path;
use std::time::Duration;

/// Runs it.
pub fn test(fixture: &mut Fixture) -> Outcome<()> {
    let mut disks = Disks::create(fixture, "qcow2")?;
    disks.virtio_options = ",cache=none,aio=io_uring";
    let state = fixture.dir.join("state");
    std::fs::create_dir(&state).context(state.display())?;
    disks.options = vec!["--state-dir".to_owned(), state.display().to_string()];
    let mut history = History::default();

    let what = "virtio0 = A by io_uring past the page cache, ide0-hd0 = old-path/disk.img";
    fixture.say("boot", what);
    let mut machine = disks.start_writing(fixture, "first", fixture.seed, &history)?;
    let errors = fixture.logs.join("first.stderr");
    let errors = std::fs::read_to_string(&errors).context(errors.display())?;
    ensure(!errors.contains("io_uring"), || {
        format!("there is no ring here: {errors}")
    })?;
    let layers = layers::make_chain(fixture, &mut machine, &disks.virtio.0)?;
    let [a, _, _, d] = layers.each_ref().map(|path| path.as_path());
    let reached = merge_until_random_moment(fixture, &mut machine)?;
    machine.kill()?;
    history.add(fixture.seed, &machine.serial);
    let (done, total) = (layers::mib(reached.done), layers::mib(reached.total));
    fixture.say(
        "SIGKILL",
        format!("block_stream virtio0 A had come to {done} of {total}"),
    );
    look(
        fixture,
        "after the kill inside the merge",
        &layers.each_ref().map(|p| p.as_path()),
    )?;
    disks.virtio.0 = d.to_owned();

    fixture.say("boot", "again: verify, write on, merge again");
    let mut machine = disks.start_writing(fixture, "second", fixture.seed + 1, &history)?;
    found(fixture, "first kill", machine.serial.verified)?;
    go_on(fixture, &mut machine, reached)?;
    layers::work_quietly(&mut machine, Duration::from_secs(3))?;
    let merge = Merge::start(&mut machine, "virtio0", Some("A"))?;
    merge.release(&mut machine)?;
    merge.wait(&mut machine)?;
    machine.kill()?;
    history.add(fixture.seed + 1, &machine.serial);
    fixture.say(
        "SIGKILL",
        "at BLOCK_JOB_COMPLETED of the merge, started again",
    );
    fixture.verified("merge again", "finished");
    look(fixture, "after the kill at completion", &[d, a])?;
    layers::check_chain(d, &[d, a])?;
    fixture.verified("chain", "D on A");

    fixture.say("boot", "a third time, to verify every block");
    let verified = disks.verify(fixture, "third", &history)?;
    found(fixture, "second kill", Some(verified))
}

/// Starts the merge of step 4 and returns when it has come to a random place.
fn merge_until_random_moment(fixture: &Fixture, machine: &mut Machine) -> Outcome<Progress> {
    let merge = Merge::start(machine, "virtio0", Some("A"))?;
    let percent = 1 + fixture.random(70);
    let mut reached = None;
    machine.wait(&format!("merge to come to {percent} %"), 120, |machine| {
        let now = layers::progress(machine, &merge.disk)?;
        let now = now.context("the merge ended before it was killed")?;
        reached = Some(now);
        Ok(now.done * 100 >= now.total * percent)
    })?;
    reached.context("a merge without progress")
}

/// The merge of the process that was killed is there, goes on from where it was, and is cancelled.
fn go_on(fixture: &mut Fixture, machine: &mut Machine, reached: Progress) -> Outcome<()> {
    let shown = machine.hmp.run("info block-jobs")?;
    ensure(shown.contains("Streaming device virtio0"), || {
        format!("the merge is not there any more: {shown}")
    })?;
    let speed = layers::WATCHED_SPEED;
    for command in [
        &format!("block_job_set_speed virtio0 {speed}"),
        "block_job_resume virtio0",
    ] {
        machine.hmp.run(command)?;
    }
    machine.wait("merge to go on", 120, |machine| {
        let now = layers::progress(machine, "virtio0")?;
        let now = now.context("the merge ended before it was cancelled")?;
        Ok(now.done > reached.done)
    })?;
    machine.hmp.run("block_job_cancel -f virtio0")?;
    machine.wait("merge to end", 120, |machine| {
        Ok(layers::progress(machine, "virtio0")?.is_none())
    })?;
    let at = layers::mib(reached.done);
    fixture.verified("merge of the killed process", format!("went on after {at}"));
    Ok(())
}

fn look(fixture: &mut Fixture, when: &str, images: &[&Path]) -> Outcome<()> {
    let leaks = layers::check_images(images, true)?;
    fixture.say(
        "check",
        format!("no errors {when}; leaked clusters: {leaks}"),
    );
    fixture.verified("check", format!("no errors {when}"));
    Ok(())
}

fn found(fixture: &mut Fixture, kill: &str, verified: Option<Verified>) -> Outcome<()> {
    let Verified {
        acknowledged,
        newer,
        ..
    } = verified.unwrap_or(Verified {
        acknowledged: 0,
        newer: 0,
        never: 0,
    });
    ensure(acknowledged > 0, || format!("{kill}: nothing was verified"))?;
    let checked = layers::mib((acknowledged + newer) << 12);
    fixture.say(
        "verify",
        format!("{checked}: nothing that was flushed is lost"),
    );
    fixture.verified(
        kill,
        format!("{checked}: every acknowledged block is there"),
    );
    Ok(())
}
