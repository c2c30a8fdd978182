//! How disks and a CD drive identify themselves, as the kernel and the programs that people use
//! with real drives show it.

use std::{fs, path::PathBuf, process::Command};

use crate::error::{Context, Outcome, ensure};
use crate::fixture::Fixture;
use crate::image::Tool;
use crate::machine::{Boot, Machine};
use serde_json::json;

const SECONDS: u64 = 120;
/// Bytes of small disks, and what they grow to.
const SIZES: [u64; 2] = [64 << 20, 96 << 20];

/// Runs it: four IDE drives, one of them for CDs, and two virtio disks, in one guest, which
/// firmware starts from the CD.
pub fn test(fixture: &mut Fixture) -> Outcome<()> {
    let mut machine = Machine::start(fixture, "guest", &boot(fixture)?)?;
    for (what, line) in [
        (
            "kernel",
            "the kernel found four IDE drives and has no complaints",
        ),
        ("hdparm", "hdparm knows the disk"),
        (
            "smartctl",
            "smartctl finds it healthy, and a self-test is logged",
        ),
        ("lsblk, sg_inq", "sectors are as they were chosen"),
        ("LBA48", "the end of a large disk holds what was written"),
        ("disc", "the disc's files are whole"),
        ("sg_start", "the tray opens and closes"),
    ] {
        machine.wait_serial(line, SECONDS, |serial| serial.has_said(line))?;
        fixture.verified(what, line);
    }
    fixture.verified("boot from the CD", "SeaBIOS and GRUB have read it");
    let ready = "ready for other sizes";
    machine.wait_serial(ready, SECONDS, |serial| serial.has_said(ready))?;
    // The guest sees the second one, and takes it for a sign of the first.
    for device in ["ide1-hd1", "virtio1"] {
        let resize = json!({"device": device, "size": SIZES[1]});
        machine.qmp.run("block_resize", resize)?;
    }
    change_discs(fixture, &mut machine)?;
    machine.wait_success(SECONDS)?;
    for (what, line) in [
        ("resize, virtio", "another size shows by itself"),
        (
            "resize, IDE",
            "a drive keeps its size until it is found again",
        ),
    ] {
        let said = machine.serial.has_said(line);
        ensure(said, || format!("the guest has not said: {line}"))?;
        fixture.verified(what, line);
    }
    Ok(())
}

/// The CD drive.
const DRIVE: &str = "ide0-cd1";

/// Has the guest find another disc, then none, then the first one again.
fn change_discs(fixture: &mut Fixture, machine: &mut Machine) -> Outcome<()> {
    let wait = |machine: &mut Machine, line: &str| {
        machine.wait_serial(line, SECONDS, |serial| serial.has_said(line))
    };
    wait(machine, "ready for another disc")?;
    let trays = tray_events(machine);
    ensure(trays == [true, false], || {
        format!("the guest's own eject and load led to: {trays:?}")
    })?;
    fixture.verified(
        "DEVICE_TRAY_MOVED",
        "the guest's own eject and load are reported",
    );
    let second = second_disc(fixture)?;
    machine
        .hmp
        .run(&format!("change {DRIVE} {}", second.display()))?;
    let line = "another disc is found and mounted";
    wait(machine, line)?;
    fixture.verified("change", line);

    // What is mounted is locked.
    let shown = machine.hmp.run(&format!("info block {DRIVE}"))?;
    let locked = "Removable device: locked, tray closed";
    ensure(shown.contains(locked), || format!("info block: {shown}"))?;
    let refused = machine.hmp.send(&format!("eject {DRIVE}"))?;
    let expected = format!(
        "Error: Device '{DRIVE}' is locked and force was not specified, wait for tray to open and \
         try again"
    );
    ensure(refused == expected, || format!("eject: {refused}"))?;
    let force = json!({"device": DRIVE, "force": true});
    machine.qmp.run("eject", force)?;
    let line = "a disc that was ejected is gone";
    wait(machine, line)?;
    let shown = machine.hmp.run(&format!("info block {DRIVE}"))?;
    let empty = shown.starts_with(&format!("{DRIVE}: [not inserted]"));
    ensure(empty && shown.contains("not locked, tray open"), || {
        format!("info block: {shown}")
    })?;
    fixture.verified(
        "eject",
        "a mounted disc is ejected by force, and by nothing less",
    );

    let first = fixture.images.join("disc.iso");
    let arguments = json!({"device": DRIVE, "filename": first, "format": "raw"});
    machine.qmp.run("blockdev-change-medium", arguments)?;
    let line = "the first disc is back";
    wait(machine, line)?;
    fixture.verified("blockdev-change-medium", line);
    let trays = tray_events(machine);
    ensure(trays == [true, false, true, false, true, false], || {
        format!("trays have moved: {trays:?}")
    })
}

/// Whether the tray was open after each time it has moved.
fn tray_events(machine: &Machine) -> Vec<bool> {
    let events = machine.qmp.events();
    let moved = events
        .iter()
        .filter(|event| event.name() == "DEVICE_TRAY_MOVED");
    moved
        .filter(|event| event.value["data"]["device"] == DRIVE)
        .filter_map(|event| event.value["data"]["tray-open"].as_bool())
        .collect()
}

/// An ext4 file system of 4 MiB with a file in it.
fn second_disc(fixture: &Fixture) -> Outcome<PathBuf> {
    let (path, tree) = (fixture.dir.join("second.img"), fixture.dir.join("second"));
    fs::create_dir(&tree).context(tree.display())?;
    fs::write(tree.join("hello"), "another disc\n").context("hello")?;
    let mut make = Command::new("mke2fs");
    make.args(["-q", "-t", "ext4", "-b", "4096", "-O", "^has_journal"])
        .arg("-d")
        .arg(&tree)
        .arg(&path)
        .arg("4M");
    let status = make.status().context("mke2fs")?;
    ensure(status.success(), || format!("mke2fs: {status}"))?;
    Ok(path)
}

fn boot(fixture: &Fixture) -> Outcome<Boot> {
    let image = |name: &str, format: &str, size: u64| -> Outcome<String> {
        let path = fixture.dir.join(name);
        Tool::QemuImg.create(&path, format, &size.to_string())?;
        Ok(format!("file={},format={format}", path.display()))
    };
    let small = |name: &str| image(name, "raw", SIZES[0]);
    let disc = fixture.images.join("disc.iso");
    let disks = vec![
        format!(
            "{},if=ide,serial=DRIVE-0,wwn=0x5000c50015ea71ac,rotational=on,physical-block-size=4096",
            small("a")?
        ),
        format!(
            "file={},format=raw,if=ide,media=cdrom,bootindex=0",
            disc.display()
        ),
        // More than 28 bits of LBA reach.
        format!("{},if=ide", image("large", "qcow2", 200 << 30)?),
        format!("{},if=ide", small("b")?),
        format!("{},logical-block-size=4096", small("c")?),
        format!("{},physical-block-size=4096,serial=DISK-1", small("d")?),
    ];
    // The disc's boot loader passes on which script is run.
    Ok(Boot {
        disks,
        by_firmware: true,
        ..Boot::default()
    })
}
