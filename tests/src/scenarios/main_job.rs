//! Steps 1 to 6 of the main job: the guest writes all the time, and at the end everything that it
//! had acknowledged as flushed is where it must be.

use super::layers::{self, Disks, History, Merge, mib};
use crate::error::{Context, Outcome, ensure};
use crate::fixture::Fixture;
use crate::image;
use crate::latency;
use crate::machine::Machine;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the guest works undisturbed, before and after, for its times to be compared.
const QUIET: Duration = Duration::from_secs(4);
/// How many times longer the longest request should be during a merge at most. A benchmark, not an
/// assertion: other work on the machine can make any single request slow.
const LONGEST_RATIO: f64 = 3.0;

/// How long after its completion a merge may take to close the files that it has made superfluous.
const CLOSE_SECONDS: u64 = 5;
/// How often the merge must be seen to advance before it may run at full speed.
const ADVANCES: usize = 3;

/// Runs it.
pub fn test(fixture: &mut Fixture) -> Outcome<()> {
    let mut disks = Disks::create(fixture, "qcow2")?;
    let mut history = History::default();
    fixture.say(
        "boot",
        "virtio0 = A (256 MiB, qcow2), ide0-hd0 = old-path/disk.img (128 MiB, raw)",
    );
    let mut machine = disks.start_writing(fixture, "first", fixture.seed, &history)?;
    fixture.say("guest", "is up and writes to both disks");
    fixture.verified("boot", "stock Debian kernel, virtio-blk and ata_piix disks");
    layers::work_quietly(&mut machine, QUIET)?;

    let layers = layers::make_chain(fixture, &mut machine, &disks.virtio.0)?;
    let a_before = fixture.dir.join("A.before");
    fs::copy(&layers[0], &a_before).context("copy of A")?;
    let old_disk = disks.ide.0.clone();
    let merges = [
        merge_layers(fixture, &mut machine, &layers)?,
        move_disk(fixture, &mut machine, &mut disks.ide)?,
    ];
    layers::work_quietly(&mut machine, QUIET)?;
    layers::power_off(fixture, &mut machine)?;
    history.add(fixture.seed, &machine.serial);
    disks.virtio.0 = layers[3].clone();

    look_at_images(fixture, &layers, &a_before, &disks.ide.0)?;
    compare_times(fixture, &machine, &merges)?;
    verify_all(
        fixture,
        &disks,
        &history,
        &[&layers[1], &layers[2], &old_disk],
    )
}

/// Step 4: A <- B <- C <- D becomes A <- D.
fn merge_layers(
    fixture: &mut Fixture,
    machine: &mut Machine,
    layers: &[PathBuf; 4],
) -> Outcome<(Instant, Instant)> {
    let [a, b, c, d] = layers;
    let merge = Merge::start(machine, "virtio0", Some("A"))?;
    fixture.say("merge", "block_stream virtio0 A");
    merge.watch(fixture, machine, ADVANCES)?;
    merge.release(machine)?;
    let completed = merge.wait(machine)?;
    let took = completed.at - merge.began;
    let events = merge.events(machine);
    fixture.say(
        "merge",
        format!("done in {:.1} s: {}", took.as_secs_f64(), events.join(" ")),
    );
    machine.wait("closing of B and C", CLOSE_SECONDS, |machine| {
        Ok(!machine.has_open(b)? && !machine.has_open(c)?)
    })?;
    let has_chain = machine.has_open(a)? && machine.has_open(d)?;
    ensure(has_chain, || "A and D must be open".to_owned())?;
    fixture.verified("snapshots", "A <- B <- C <- D, each with data of its own");
    fixture.verified("block_stream", format!("seen to advance {ADVANCES} times"));
    fixture.verified("events", "up to BLOCK_JOB_COMPLETED, B and C closed");
    Ok((merge.began, completed.at))
}

/// Step 5: ide0-hd0 moves to another directory. Its old file is closed.
fn move_disk(
    fixture: &mut Fixture,
    machine: &mut Machine,
    ide: &mut (PathBuf, &'static str),
) -> Outcome<(Instant, Instant)> {
    let new_path = fixture.dir.join("new-path");
    fs::create_dir_all(&new_path).context(new_path.display())?;
    let new = new_path.join("disk.img");
    layers::snapshot(machine, "ide0-hd0", &new)?;
    let merge = Merge::start(machine, "ide0-hd0", None)?;
    merge.release(machine)?;
    let completed = merge.wait(machine)?;
    let took = (completed.at - merge.began).as_secs_f64();
    fixture.say(
        "move",
        format!("ide0-hd0 is in new-path/disk.img alone, after {took:.1} s"),
    );
    machine.wait("closing of the old disk.img", CLOSE_SECONDS, |machine| {
        Ok(!machine.has_open(&ide.0)?)
    })?;
    *ide = (new, "qcow2");
    fixture.verified("live copy", "stands alone, the old file is closed");
    Ok((merge.began, completed.at))
}

/// Step 6, what lies on the host.
fn look_at_images(
    fixture: &mut Fixture,
    layers: &[PathBuf; 4],
    a_before: &Path,
    moved: &Path,
) -> Outcome<()> {
    let [a, b, c, d] = layers.each_ref().map(PathBuf::as_path);
    image::same_bytes(a, a_before)?;
    fixture.verified("A", "same bytes as before the merge");
    layers::check_images(&[a, b, c, d, moved], false)?;
    fixture.say(
        "check",
        "qemu-img and strata-img find nothing on A, B, C, D, disk.img",
    );
    fixture.verified(
        "check",
        "no error and no leak on A, B, C, D, disk.img, by both tools",
    );
    layers::check_chain(d, &[d, a])?;
    layers::check_chain(moved, &[moved])?;
    fixture.verified("chains", "D on A; disk.img alone");
    Ok(())
}

fn compare_times(
    fixture: &mut Fixture,
    machine: &Machine,
    merges: &[(Instant, Instant)],
) -> Outcome<()> {
    let longest = latency::compare(&machine.serial.io, merges);
    let ratio = longest
        .ratio()
        .context("too few reports of the guest's times")?;
    let (during, without) = (&longest.during, &longest.without);
    let times = format!("{during} during a merge, {without} without: {ratio:.2} times");
    fixture.say("times", format!("longest request {times}"));
    fixture.measured("longest request", times, ratio <= LONGEST_RATIO);
    Ok(())
}

/// Step 6, without B, C and the old disk.img, a second boot finds everything.
fn verify_all(
    fixture: &mut Fixture,
    disks: &Disks,
    history: &History,
    superfluous: &[&Path],
) -> Outcome<()> {
    for gone in superfluous {
        fs::remove_file(gone).context(gone.display())?;
    }
    fixture.say("boot", "again, to verify every block");
    let verified = disks.verify(fixture, "second", history)?;
    let checked = mib((verified.acknowledged + verified.newer) << 12);
    fixture.say(
        "verify",
        format!("{checked} written by the guest, all as acknowledged"),
    );
    ensure(verified.acknowledged > 0, || {
        "nothing was verified".to_owned()
    })?;
    fixture.verified(
        "second boot",
        format!("{checked}: every acknowledged block is there, B, C and old-path deleted"),
    );
    Ok(())
}
