//! The monitor at work on a running guest with two vCPUs: stop and go on, hold, pause and cancel a
//! merge, wait for room, commit, merge both disks, refuse overlays that cannot be made, put up with
//! rude clients, end by SIGTERM, reset.

use super::both_disks;
use super::commit;
use super::layers::{self, Disks, History};
use super::no_room;
use crate::error::{Context, Outcome, ensure};
use crate::fixture::Fixture;
use crate::machine::Machine;
use serde_json::json;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

const CPUS: [&str; 2] = ["--cpus", "2"];
/// How long a stopped guest is watched.
const RESTED: Duration = Duration::from_secs(3);

/// Runs it.
pub fn test(fixture: &mut Fixture) -> Outcome<()> {
    let mut disks = Disks::create(fixture, "qcow2")?;
    disks.options = CPUS.map(str::to_owned).to_vec();
    let mut history = History::default();
    fixture.say("boot", "two vCPUs, virtio0 = A (qcow2), ide0-hd0 (raw)");
    let mut machine = disks.start_writing(fixture, "first", fixture.seed, &history)?;
    stop_and_go_on(fixture, &mut machine)?;
    throttle(fixture, &mut machine)?;
    refuse(fixture, &mut machine)?;
    be_rude(fixture, &mut machine)?;
    hold_a_merge(fixture, &mut machine, &mut disks)?;
    no_room::test(fixture, &mut machine, &mut disks)?;
    commit::test(fixture, &mut machine, &mut disks)?;
    both_disks::test(fixture, &mut machine, &mut disks)?;

    machine.terminate()?;
    machine.wait_success(60)?;
    history.add(fixture.seed, &machine.serial);
    fixture.verified("SIGTERM", "drained, flushed and closed, exit status 0");
    layers::check_images(&[&disks.virtio.0], false)?;
    let verified = disks.verify(fixture, "second", &history)?;
    ensure(verified.acknowledged > 0, || {
        "nothing was verified".to_owned()
    })?;
    let checked = layers::mib(verified.acknowledged << 12);
    fixture.verified(
        "second boot",
        format!("{checked}: every acknowledged block is there"),
    );
    reset(fixture, &disks, &history)
}

/// `stop`: the guest does nothing any more; `cont`: it goes on.
fn stop_and_go_on(fixture: &mut Fixture, machine: &mut Machine) -> Outcome<()> {
    machine.wait_serial("a report", 60, |serial| !serial.io.is_empty())?;
    machine.qmp.run("stop", json!({}))?;
    let status = machine.hmp.run("info status")?;
    ensure(status.contains("VM status: paused"), || {
        format!("after stop: {status}")
    })?;
    thread::sleep(Duration::from_millis(500));
    machine.serial.update()?;
    let before = machine.serial.io.len();
    let last = machine.serial.io.last().cloned();
    let last = last.context("no report before stop")?;
    thread::sleep(RESTED);
    machine.serial.update()?;
    ensure(machine.serial.io.len() == before, || {
        "a stopped guest has reported".to_owned()
    })?;
    machine.qmp.run("cont", json!({}))?;
    machine.wait_serial("report after cont", 60, |serial| serial.io.len() > before)?;
    let next = &machine.serial.io[before];
    let passed = next.guest_ms.checked_sub(last.guest_ms);
    let passed = passed.map(Duration::from_millis);
    ensure(passed.is_some_and(|passed| passed >= RESTED), || {
        format!("while the guest stood still its clock did: {last:?}, {next:?}")
    })?;
    fixture.verified("guest's clock", "has gone on while the guest stood still");
    let names: Vec<_> = machine
        .qmp
        .events()
        .iter()
        .map(|event| event.name().to_owned())
        .collect();
    ensure(
        names.iter().any(|name| name == "STOP") && names.iter().any(|name| name == "RESUME"),
        || format!("no STOP and RESUME events: {names:?}"),
    )?;
    fixture.say("stop", "and cont: the guest rested and went on");
    fixture.verified("stop and cont", "guest at rest, then writing again");
    Ok(())
}

/// A disk that may do next to nothing: `stop` does not wait for what its limits hold back, and
/// without them the guest goes on.
fn throttle(fixture: &mut Fixture, machine: &mut Machine) -> Outcome<()> {
    machine
        .hmp
        .run("block_set_io_throttle virtio0 0 0 0 1 0 0")?;
    let info = machine.hmp.run("info block virtio0")?;
    ensure(
        info.contains("I/O throttling:   bps=0") && info.contains("iops=1 "),
        || info.clone(),
    )?;
    let shown = machine.qmp.run("query-block", json!({}))?;
    let inserted = &shown[0]["inserted"];
    ensure(
        inserted["iops"] == 1 && inserted["group"] == "virtio0",
        || shown.to_string(),
    )?;
    thread::sleep(Duration::from_secs(1));
    machine.qmp.run("stop", json!({}))?;
    let status = machine.hmp.run("info status")?;
    ensure(status.contains("VM status: paused"), || status.clone())?;
    machine.qmp.run("cont", json!({}))?;
    // The limit is still there: of a request a second, where hundreds would be done.
    machine.serial.update()?;
    let from = machine.serial.io.len() + 1;
    machine.wait_serial("reports under limits", 60, |serial| {
        serial.io.len() > from + 1
    })?;
    let last = machine.serial.io[from..].last().context("a report")?;
    let done = last.disks.iter().find(|disk| disk.name == "vda");
    ensure(done.is_some_and(|disk| disk.requests < 30), || {
        format!("not throttled any more: {last:?}")
    })?;
    machine
        .hmp
        .run("block_set_io_throttle virtio0 0 0 0 0 0 0")?;
    machine.serial.update()?;
    let before = machine.serial.io.len();
    machine.wait_serial("report without limits", 60, |serial| {
        serial.io.len() > before
    })?;
    fixture.verified("throttling", "shown, not waited for, and taken away");
    Ok(())
}

/// Overlays that cannot be made for a running guest: an error, and nothing has changed.
fn refuse(fixture: &mut Fixture, machine: &mut Machine) -> Outcome<()> {
    let taken = fixture.dir.join("taken");
    fs::write(&taken, "mine").context("taken")?;
    let full = full_directory(fixture)?;
    let cases = [
        (taken.display().to_string(), "File exists"),
        (
            "/nosuch/directory/B".to_owned(),
            "No such file or directory",
        ),
        (format!("{full}/B"), "no space left"),
    ];
    for (file, expected) in &cases {
        let arguments = json!({"device": "virtio0", "snapshot-file": file});
        let answer = machine.qmp.send("blockdev-snapshot-sync", arguments)?;
        let desc = answer["error"]["desc"].as_str().unwrap_or_default();
        ensure(desc.contains(expected), || {
            format!("{file}: expected {expected}: {answer}")
        })?;
    }
    let kept = fs::read(&taken).context("taken")?;
    ensure(kept == b"mine", || {
        "an existing file has been overwritten".to_owned()
    })?;
    ensure(!Path::new(&full).join("B").exists(), || {
        "a half-made overlay is left".to_owned()
    })?;
    unmount(&full)?;
    let info = machine.hmp.run("info block virtio0")?;
    ensure(!info.contains("Backing file"), || {
        format!("the chain has changed: {info}")
    })?;
    fixture.say(
        "refused",
        "overlays: name taken, directory missing, disk full",
    );
    fixture.verified(
        "overlays",
        "name taken, directory missing, disk full: refused, chain unchanged",
    );
    Ok(())
}

/// A directory on a file system without room.
fn full_directory(fixture: &Fixture) -> Outcome<String> {
    let directory = fixture.dir.join("full");
    fs::create_dir_all(&directory).context("full")?;
    let path = directory.display().to_string();
    let mount = ["-t", "tmpfs", "-o", "size=4k", "none", &path];
    let status = Command::new("mount")
        .args(mount)
        .status()
        .context("mount")?;
    ensure(status.success(), || "mount failed".to_owned())?;
    fs::write(directory.join("fill"), [0; 4096]).context("fill")?;
    Ok(path)
}

fn unmount(directory: &str) -> Outcome<()> {
    let status = Command::new("umount")
        .arg(directory)
        .status()
        .context("umount")?;
    ensure(status.success(), || {
        format!("umount {directory} failed: strata still uses it")
    })
}

/// Clients that say nothing, flood, or leave in the middle of a line disturb nobody.
fn be_rude(fixture: &mut Fixture, machine: &mut Machine) -> Outcome<()> {
    let qmp = fixture.dir.join("first.qmp.sock");
    let connect = || UnixStream::connect(&qmp).context("connect");
    let silent: Vec<_> = (0..5).map(|_| connect()).collect::<Outcome<_>>()?;
    let mut leaving = connect()?;
    leaving
        .write_all(b"{\"execute\": \"qmp_cap")
        .context("half a line")?;
    drop(leaving);
    let mut malformed = connect()?;
    malformed.write_all(b"{]\n").context("malformed")?;
    let mut answer = [0; 4096];
    let mut answered = String::new();
    while !answered.contains("JSON parse error") {
        let n = malformed.read(&mut answer).context("malformed")?;
        ensure(n > 0, || {
            format!("cut off instead of answered with an error: {answered}")
        })?;
        answered.push_str(&String::from_utf8_lossy(&answer[..n]));
    }
    let mut flood = connect()?;
    flood
        .set_write_timeout(Some(Duration::from_secs(1)))
        .context("flood")?;
    let garbage = [b'['; 65536];
    // 64 MiB at most; being cut off, or no longer read, is the right answer.
    let sent = (0..1024)
        .take_while(|_| flood.write_all(&garbage).is_ok())
        .count();
    ensure(sent < 1024, || {
        "64 MiB of garbage were swallowed".to_owned()
    })?;
    machine.qmp.run("query-status", json!({}))?;
    let before = machine.serial.io.len();
    machine.wait_serial("report beside rude clients", 60, |serial| {
        serial.io.len() > before
    })?;
    drop(silent);
    fixture.say(
        "rude",
        "silent, leaving, malformed and flooding clients: nobody else noticed",
    );
    fixture.verified("rude clients", "others served, guest running");
    Ok(())
}

/// A merge that is held by its speed, paused, resumed and cancelled, then done.
fn hold_a_merge(fixture: &mut Fixture, machine: &mut Machine, disks: &mut Disks) -> Outcome<()> {
    let a = disks.virtio.0.clone();
    layers::fill_layer(machine, &a)?;
    let b = fixture.dir.join("B");
    layers::snapshot(machine, "virtio0", &b)?;
    machine.hmp.run("block_stream virtio0 1M")?;
    machine.hmp.run("block_job_pause virtio0")?;
    thread::sleep(Duration::from_millis(500));
    let paused = layers::progress(machine, "virtio0")?.context("no job")?;
    thread::sleep(Duration::from_secs(1));
    let still = layers::progress(machine, "virtio0")?.context("no job")?;
    ensure(paused == still, || {
        format!("a paused job went on: {paused:?}, {still:?}")
    })?;
    machine.hmp.run("block_job_resume virtio0")?;
    machine.hmp.run("block_job_cancel virtio0")?;
    let wait = Duration::from_secs(60);
    machine.qmp.wait_event("BLOCK_JOB_CANCELLED", 0, wait)?;
    let info = machine.hmp.run("info block virtio0")?;
    ensure(info.contains("Backing file"), || {
        format!("cancelled, yet merged: {info}")
    })?;
    fixture.say(
        "cancel",
        "a merge held by its speed was paused, resumed and cancelled",
    );
    let merge = layers::Merge::start(machine, "virtio0", None)?;
    merge.release(machine)?;
    merge.wait(machine)?;
    let info = machine.hmp.run("info block virtio0")?;
    ensure(!info.contains("Backing file"), || {
        format!("not merged: {info}")
    })?;
    fixture.verified(
        "job control",
        "speed, pause, resume, cancel, and done after all",
    );
    disks.virtio.0 = b;
    Ok(())
}

/// `--paused`, `cont`, and a `system_reset` in the middle of the guest's check of its disks.
fn reset(fixture: &mut Fixture, disks: &Disks, history: &History) -> Outcome<()> {
    let mut disks = disks.clone();
    disks.options.push("--paused".to_owned());
    let boot = disks.boot(vec!["mode=verify".to_owned()], history);
    let mut machine = Machine::start(fixture, "third", &boot)?;
    let status = machine.hmp.run("info status")?;
    ensure(status.contains("paused (prelaunch)"), || {
        format!("before cont: {status}")
    })?;
    machine.hmp.run("cont")?;
    machine.wait_serial("first boot", 180, |serial| serial.boots == 1)?;
    machine.hmp.run("system_reset")?;
    machine.wait_serial("boot after the reset", 180, |serial| serial.boots == 2)?;
    machine
        .qmp
        .wait_event("RESET", 0, Duration::from_secs(10))?;
    machine.wait_success(180)?;
    let has_passed = machine.serial.has_passed;
    ensure(has_passed, || {
        "the guest did not end its check after the reset".to_owned()
    })?;
    fixture.say("reset", "the guest came up again and found all its blocks");
    fixture.verified(
        "reset",
        "prelaunch, cont, system_reset, and all blocks found",
    );
    Ok(())
}
