//! The guests' own judgement: other people's programs work on our disks, while these are
//! snapshotted, merged, resized and stopped.

use super::layers;
use crate::error::{Context, Outcome, ensure};
use crate::fixture::Fixture;
use crate::image::Tool;
use crate::machine::{Boot, Machine};
use serde_json::json;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// For a boot and all that is judged, in an emulated test host with other work beside it.
const SECONDS: u64 = 300;
const JOB: Duration = Duration::from_secs(120);
/// How long the guest is left alone between two rounds.
const REST: Duration = Duration::from_secs(4);
/// How often the longer form has the guest start again.
const TIMES: usize = 10;

/// A disk of the guest.
struct Judged {
    /// Its serial number.
    name: &'static str,
    format: &'static str,
    size: &'static str,
    interface: &'static str,
}

const DISKS: [Judged; 5] = [
    Judged {
        name: "ext4",
        format: "qcow2",
        size: "96M",
        interface: "virtio",
    },
    Judged {
        name: "xfs",
        format: "raw",
        size: "320M",
        interface: "virtio",
    },
    Judged {
        name: "raid-a",
        format: "qed",
        size: "24M",
        interface: "virtio",
    },
    Judged {
        name: "btrfs",
        format: "qcow2",
        size: "160M",
        interface: "ide",
    },
    Judged {
        name: "raid-b",
        format: "raw",
        size: "24M",
        interface: "ide",
    },
];

/// What the script prints, in this order.
const FOUND: [(&str, &str); 7] = [
    ("lsblk, sg_inq", "disks are described"),
    ("ext4, fio with libaio", "ext4 is in order"),
    ("btrfs, fio with io_uring", "btrfs is in order"),
    ("xfs, fio with io_uring", "xfs is in order"),
    ("md RAID and LVM", "RAID and LVM are in order"),
    ("blkdiscard -z", "zeros are zeros"),
    ("kernel log", "the kernel had nothing to complain of"),
];

/// Runs it once.
pub fn test(fixture: &mut Fixture) -> Outcome<()> {
    let mut machine = start(fixture, &[])?;
    let rounds = while_it_works(fixture, &mut machine, 1)?;
    machine.qmp.run("quit", json!({}))?;
    machine.wait_success(60)?;
    for (what, line) in FOUND {
        ensure(machine.serial.has_said(line), || {
            format!("not said: {line}")
        })?;
        fixture.verified(what, line);
    }
    finish(fixture, rounds)
}

/// Runs it ten times, the guest starting again in between.
pub fn test_long(fixture: &mut Fixture) -> Outcome<()> {
    let mut machine = start(fixture, &["judgement=again"])?;
    let rounds = while_it_works(fixture, &mut machine, TIMES)?;
    machine.qmp.run("quit", json!({}))?;
    machine.wait_success(60)?;
    fixture.verified(
        "guest",
        format!("reset itself {TIMES} times, and found all in order"),
    );
    finish(fixture, rounds)
}

fn path(fixture: &Fixture, disk: &Judged) -> PathBuf {
    fixture.dir.join(format!("{}.{}", disk.name, disk.format))
}

fn start(fixture: &Fixture, words: &[&str]) -> Outcome<Machine> {
    let mut disks = Vec::new();
    for disk in &DISKS {
        let (file, Judged { name, format, .. }) = (path(fixture, disk), disk);
        let tool = if *format == "raw" {
            Tool::QemuImg
        } else {
            Tool::StrataImg
        };
        tool.create(&file, format, disk.size)?;
        let file = file.display();
        disks.push(format!(
            "file={file},format={format},if={},serial={name},id={name},discard=unmap",
            disk.interface
        ));
    }
    let tools = ["tools.raw", "judgement/images/tools.raw"].map(|name| fixture.images.join(name));
    let tools = tools.into_iter().find(|path| path.exists());
    let tools = tools
        .context("no tools.raw: guest-images/build makes it, and ci/testhost --add brings it")?;
    let file = tools.display();
    disks.push(format!(
        "file={file},format=raw,if=virtio,serial=tools,readonly=on"
    ));
    let boot = Boot {
        disks,
        script: Some("judgement"),
        kernel: words.iter().map(|word| (*word).to_owned()).collect(),
        options: ["--cpus", "2"].map(str::to_owned).to_vec(),
        ..Boot::default()
    };
    Machine::start(fixture, "guest", &boot)
}

/// Disturbs the guest until it has been judged so many times. How often it was disturbed.
fn while_it_works(fixture: &Fixture, machine: &mut Machine, times: usize) -> Outcome<usize> {
    let judged = |machine: &Machine| {
        let said = machine.serial.said.iter();
        said.filter(|line| *line == FOUND[6].1).count()
    };
    let mut rounds = 0;
    machine.wait_serial("the first disk", SECONDS, |serial| {
        serial.has_said(FOUND[0].1)
    })?;
    let mut sizes = [96u64 << 20, 160 << 20];
    while judged(machine) < times {
        for (disk, size) in ["ext4", "btrfs"].into_iter().zip(&mut sizes) {
            let overlay = fixture.dir.join(format!("{disk}.{rounds}.qcow2"));
            layers::snapshot(machine, disk, &overlay)?;
            *size += 1 << 20;
            let resize = json!({"device": disk, "size": *size});
            machine.qmp.run("block_resize", resize)?;
            let skip = machine.qmp.events().len();
            machine.qmp.run("block-stream", json!({"device": disk}))?;
            machine.qmp.run("stop", json!({}))?;
            thread::sleep(Duration::from_millis(200));
            machine.qmp.run("cont", json!({}))?;
            let event = machine.qmp.wait_event("BLOCK_JOB_COMPLETED", skip, JOB)?;
            ensure(event.value["data"].get("error").is_none(), || {
                format!("{event:?}")
            })?;
            machine.serial.update()?;
        }
        rounds += 1;
        fixture.say(
            "round",
            format!("{rounds}: two snapshots, resizes, merges, stop and cont"),
        );
        layers::work_quietly(machine, REST)?;
    }
    Ok(rounds)
}

/// What has been done to the disks, and that none was damaged.
fn finish(fixture: &mut Fixture, rounds: usize) -> Outcome<()> {
    for disk in ["ext4", "btrfs"] {
        let top = fixture.dir.join(format!("{disk}.{}.qcow2", rounds - 1));
        layers::check_images(&[&top], false)?;
    }
    fixture.verified(
        "meanwhile",
        format!("{} snapshots, merges and resizes", 2 * rounds),
    );
    Ok(())
}
