//! Step 7 of the main job: SIGKILL loses nothing that was flushed, and a merge can be started
//! again.

use super::layers::{self, Disks, History, Merge, Progress};
use crate::error::{Context, Outcome, ensure};
use crate::machine::Machine;
use crate::serial::Verified;
use crate::stage::Stage;
use std::path::Path;
use std::time::Duration;

/// Plays it.
pub fn play(stage: &mut Stage) -> Outcome<()> {
    let mut disks = Disks::create(stage, "qcow2")?;
    let mut history = History::default();

    stage.say("boot", "virtio0 = A, ide0-hd0 = old-path/disk.img");
    let mut machine = disks.start_writing(stage, "first", stage.seed, &history)?;
    let layers = layers::make_chain(stage, &mut machine, &disks.virtio.0)?;
    let [a, _, _, d] = layers.each_ref().map(|path| path.as_path());
    let reached = merge_until_random_moment(stage, &mut machine)?;
    machine.kill()?;
    history.add(stage.seed, &machine.serial);
    let (done, total) = (layers::mib(reached.done), layers::mib(reached.total));
    stage.say(
        "SIGKILL",
        format!("block_stream virtio0 A had come to {done} of {total}"),
    );
    look(
        stage,
        "after the kill inside the merge",
        &layers.each_ref().map(|p| p.as_path()),
    )?;
    disks.virtio.0 = d.to_owned();

    stage.say("boot", "again: verify, write on, merge again");
    let mut machine = disks.start_writing(stage, "second", stage.seed + 1, &history)?;
    found(stage, "first kill", machine.serial.verified)?;
    layers::work_quietly(&mut machine, Duration::from_secs(3))?;
    let merge = Merge::start(&mut machine, "virtio0", Some("A"))?;
    merge.release(&mut machine)?;
    merge.wait(&mut machine)?;
    machine.kill()?;
    history.add(stage.seed + 1, &machine.serial);
    stage.say(
        "SIGKILL",
        "at BLOCK_JOB_COMPLETED of the merge, started again",
    );
    stage.verified("merge again", "finished");
    look(stage, "after the kill at completion", &[d, a])?;
    layers::check_chain(d, &[d, a])?;
    stage.verified("chain", "D on A");

    stage.say("boot", "a third time, to verify every block");
    let verified = disks.verify(stage, "third", &history)?;
    found(stage, "second kill", Some(verified))
}

/// Starts the merge of step 4 and returns when it has come to a random place.
fn merge_until_random_moment(stage: &Stage, machine: &mut Machine) -> Outcome<Progress> {
    let merge = Merge::start(machine, "virtio0", Some("A"))?;
    let percent = 1 + stage.random(70);
    let mut reached = None;
    machine.wait(&format!("merge to come to {percent} %"), 120, |machine| {
        let now = layers::progress(machine, &merge.disk)?;
        let now = now.context("the merge ended before it was killed")?;
        reached = Some(now);
        Ok(now.done * 100 >= now.total * percent)
    })?;
    reached.context("a merge without progress")
}

fn look(stage: &mut Stage, when: &str, images: &[&Path]) -> Outcome<()> {
    let leaks = layers::check_images(images, true)?;
    stage.say(
        "check",
        format!("no errors {when}; leaked clusters: {leaks}"),
    );
    stage.verified("check", format!("no errors {when}"));
    Ok(())
}

fn found(stage: &mut Stage, kill: &str, verified: Option<Verified>) -> Outcome<()> {
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
    stage.say(
        "verify",
        format!("{checked}: nothing that was flushed is lost"),
    );
    stage.verified(
        kill,
        format!("{checked}: every acknowledged block is there"),
    );
    Ok(())
}
