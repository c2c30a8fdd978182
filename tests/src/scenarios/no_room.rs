//! A guest that writes to a disk whose file finds no room: it stands still until there is some.

use super::layers::{self, Disks};
use crate::error::{Context, Outcome, ensure};
use crate::fixture::Fixture;
use crate::machine::Machine;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(60);

/// Once on virtio-blk and once on IDE. The disks' new tops lie beside those that they have had.
pub fn test(fixture: &mut Fixture, machine: &mut Machine, disks: &mut Disks) -> Outcome<()> {
    disks.virtio = (
        fill_up(fixture, machine, "virtio0", &disks.virtio.0)?,
        "qcow2",
    );
    disks.ide = (
        fill_up(fixture, machine, "ide0-hd0", &disks.ide.0)?,
        "qcow2",
    );
    fixture.verified(
        "no room",
        "guest stopped, and gone on by itself; on virtio-blk and IDE",
    );
    Ok(())
}

/// Has `disk` write to a file system that fills up, makes room, and moves it away from there again.
fn fill_up(fixture: &Fixture, machine: &mut Machine, disk: &str, base: &Path) -> Outcome<PathBuf> {
    let small = fixture.dir.join(format!("small-{disk}"));
    std::fs::create_dir_all(&small).context("small")?;
    mount(&small, "size=2m")?;
    let skip = machine.qmp.events().len();
    layers::snapshot(machine, disk, &small.join("top"))?;
    let event = machine.qmp.wait_event("BLOCK_IO_ERROR", skip, WAIT)?;
    let data = &event.value["data"];
    let expected = json!([disk, "write", "stop", true]);
    let found = json!([
        data["device"],
        data["operation"],
        data["action"],
        data["nospace"]
    ]);
    ensure(found == expected, || event.value.to_string())?;
    machine.qmp.wait_event("STOP", skip, WAIT)?;
    // Its answer has the word "error" in it.
    let status = machine.hmp.send("info status")?;
    ensure(status.contains("VM status: paused (io-error)"), || status)?;
    let info = machine.hmp.run(&format!("info block {disk}"))?;
    ensure(info.contains("I/O status:       nospace"), || info)?;

    mount(&small, "remount,size=256m")?;
    machine.qmp.wait_event("RESUME", skip, WAIT)?;
    let before = machine.serial.io.len();
    machine.wait_serial("report after there is room", 60, |serial| {
        serial.io.len() > before
    })?;
    fixture.say("no room", format!("{disk}: the guest waited for it"));

    let top = base.with_file_name(format!("top-{disk}"));
    layers::snapshot(machine, disk, &top)?;
    let base = base.display().to_string();
    let merge = layers::Merge::start(machine, disk, Some(&base))?;
    merge.release(machine)?;
    merge.wait(machine)?;
    run("umount", &[&small.display().to_string()])?;
    Ok(top)
}

fn mount(on: &Path, options: &str) -> Outcome<()> {
    let on = on.display().to_string();
    run("mount", &["-t", "tmpfs", "-o", options, "none", &on])
}

fn run(program: &str, arguments: &[&str]) -> Outcome<()> {
    let status = Command::new(program).args(arguments).status();
    let status = status.context(program)?;
    ensure(status.success(), || {
        format!("{program} {arguments:?} failed")
    })
}
