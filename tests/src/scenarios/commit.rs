//! Commits under a guest that writes: by people, of a layer in the middle, and of the top.

use super::layers::{self, Disks};
use crate::error::{Outcome, ensure};
use crate::fixture::Fixture;
use crate::machine::Machine;
use serde_json::json;
use std::path::Path;
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(120);

/// Puts two overlays on virtio0 and commits them into what it lay on before, which the guest writes
/// to at the end. The disk is to be opened from the last overlay then, as if nothing had been.
pub fn test(fixture: &mut Fixture, machine: &mut Machine, disks: &mut Disks) -> Outcome<()> {
    let base = disks.virtio.0.clone();
    let [lower, upper] = ["lower", "upper"].map(|name| fixture.dir.join(name));
    layers::snapshot(machine, "virtio0", &lower)?;
    layers::fill_layer(machine, &lower)?;
    machine.hmp.run("commit virtio0")?;
    expect_top(machine, &lower)?;
    fixture.say("commit", "by people: the top was emptied, and stayed");

    layers::snapshot(machine, "virtio0", &upper)?;
    layers::fill_layer(machine, &upper)?;
    let skip = machine.qmp.events().len();
    let arguments = json!({"device": "virtio0", "top": lower, "base": base});
    machine.qmp.run("block-commit", arguments)?;
    completed(machine, skip)?;
    ensure(!machine.has_open(&lower)?, || "lower is open".to_owned())?;
    fixture.say("commit", "of the layer in the middle");

    let skip = machine.qmp.events().len();
    let arguments = json!({"device": "virtio0", "base": base});
    machine.qmp.run("block-commit", arguments)?;
    machine.qmp.wait_event("BLOCK_JOB_READY", skip, WAIT)?;
    let jobs = machine.hmp.run("info block-jobs")?;
    ensure(jobs.starts_with("Type commit, device virtio0: "), || jobs)?;
    report(machine)?;
    machine.hmp.run("block_job_complete virtio0")?;
    completed(machine, skip)?;
    expect_top(machine, &base)?;
    report(machine)?;
    fixture.say("commit", "of the top: the guest writes to the base");
    fixture.verified(
        "commits",
        "by people, in the middle, and of the top, under a guest that writes",
    );
    disks.virtio.0 = upper;
    Ok(())
}

fn completed(machine: &mut Machine, skip: usize) -> Outcome<()> {
    let event = machine.qmp.wait_event("BLOCK_JOB_COMPLETED", skip, WAIT)?;
    let data = &event.value["data"];
    let is_right = data["type"] == "commit" && data["len"] == data["offset"];
    ensure(is_right && data.get("error").is_none(), || {
        event.value.to_string()
    })
}

fn expect_top(machine: &mut Machine, top: &Path) -> Outcome<()> {
    let info = machine.hmp.run("info block virtio0")?;
    ensure(
        info.contains(&format!(": {} (qcow2)", top.display())),
        || format!("the top is not {}: {info}", top.display()),
    )
}

/// Waits until the guest says that it has gone on.
pub fn report(machine: &mut Machine) -> Outcome<()> {
    machine.serial.update()?;
    let before = machine.serial.io.len();
    machine.wait_serial("a report", 60, |serial| serial.io.len() > before)
}
