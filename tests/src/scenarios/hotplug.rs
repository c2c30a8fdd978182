//! A disk that comes into a running guest, goes, and comes again.

use crate::error::{Outcome, ensure};
use crate::fixture::Fixture;
use crate::image::Tool;
use crate::machine::{Boot, Machine};
use serde_json::{Value, json};
use std::time::Duration;

const SECONDS: u64 = 120;
const WAIT: Duration = Duration::from_secs(SECONDS);

/// Runs it.
pub fn test(fixture: &mut Fixture) -> Outcome<()> {
    let image = fixture.dir.join("spare");
    Tool::StrataImg.create(&image, "qcow2", "8M")?;
    let boot = Boot {
        script: Some("hotplug"),
        ..Boot::default()
    };
    let mut machine = Machine::start(fixture, "guest", &boot)?;
    said(&mut machine, "begins")?;
    refuse(&mut machine)?;

    let file = json!({"driver": "file", "filename": image});
    let node = json!({"driver": "qcow2", "node-name": "node0", "file": file});
    machine.qmp.run("blockdev-add", node)?;
    let device = json!({"driver": "virtio-blk-pci", "drive": "node0", "id": "d0"});
    machine.qmp.run("device_add", device.clone())?;
    in_use(&mut machine, &device)?;
    said(&mut machine, "the disk came")?;
    fixture.verified(
        "blockdev-add, device_add",
        "the guest found the disk and wrote to it",
    );

    delete(&mut machine, "d0")?;
    said(&mut machine, "the disk went")?;
    machine
        .qmp
        .run("blockdev-del", json!({"node-name": "node0"}))?;
    ensure(!machine.has_open(&image)?, || {
        "the image is still open".to_owned()
    })?;
    fixture.verified(
        "device_del, blockdev-del",
        "the guest let go, and so did strata",
    );

    let drive = format!(
        "drive_add 0 file={},format=qcow2,if=none,id=spare,node-name=node0",
        image.display()
    );
    let answer = machine.hmp.run(&drive)?;
    ensure(answer == "OK", || answer)?;
    let again = "device_add virtio-blk-pci,drive=spare,id=d1,addr=1f";
    let answer = machine.hmp.run(again)?;
    ensure(answer.is_empty(), || answer)?;
    said(&mut machine, "the disk came again")?;
    fixture.verified("drive_add, device_add", "all the bytes are there");

    // While the guest writes to it, and while a job works on it: the job goes on.
    let top = fixture.dir.join("top");
    super::layers::snapshot(&mut machine, "spare", &top)?;
    machine.hmp.run("block_stream spare 1")?;
    machine.hmp.run("block_job_pause spare")?;
    delete(&mut machine, "d1")?;
    said(&mut machine, "done")?;
    machine.hmp.run("block_job_set_speed spare 0")?;
    machine.hmp.run("block_job_resume spare")?;
    machine.qmp.wait_event("BLOCK_JOB_COMPLETED", 0, WAIT)?;
    fixture.verified("device_del of a busy disk", "its merge went on to its end");
    let answer = machine.hmp.run("drive_del spare")?;
    ensure(answer.is_empty() && !machine.has_open(&top)?, || {
        format!("drive_del: {answer}")
    })?;
    machine.qmp.run("quit", json!({}))?;
    machine.wait_success(SECONDS)?;
    super::layers::check_images(&[&top], false)?;
    Ok(())
}

fn said(machine: &mut Machine, line: &str) -> Outcome<()> {
    machine.wait_serial(line, SECONDS, |serial| serial.has_said(line))
}

/// `device_del`, and the events that report the end.
fn delete(machine: &mut Machine, id: &str) -> Outcome<()> {
    let skip = machine.qmp.events().len();
    machine.qmp.run("device_del", json!({"id": id}))?;
    let of_device =
        |machine: &Machine| {
            machine.qmp.events().into_iter().skip(skip).any(|event| {
                event.name() == "DEVICE_DELETED" && event.value["data"]["device"] == id
            })
        };
    machine.wait("DEVICE_DELETED", SECONDS, |machine| Ok(of_device(machine)))?;
    let answer = machine.qmp.send("device_del", json!({"id": id}))?;
    ensure(answer["error"]["class"] == "DeviceNotFound", || {
        answer.to_string()
    })
}

/// What cannot be plugged in.
fn refuse(machine: &mut Machine) -> Outcome<()> {
    let cases = [
        (
            json!({"driver": "nosuch"}),
            "'nosuch' is not a valid device model name",
        ),
        (
            json!({"driver": "virtio-blk-pci"}),
            "drive property not set",
        ),
        (
            json!({"driver": "virtio-blk-pci", "drive": "nosuch"}),
            "can't find value 'nosuch'",
        ),
        (
            json!({"driver": "virtio-blk-pci", "drive": "spare", "addr": "1"}),
            "doesn't take value '1'",
        ),
    ];
    for (arguments, why) in cases {
        let answer = machine.qmp.send("device_add", arguments)?;
        let desc = answer["error"]["desc"].as_str().unwrap_or_default();
        ensure(desc.contains(why), || format!("{why}: {answer}"))?;
    }
    Ok(())
}

/// The disk has a device now, and cannot have another.
fn in_use(machine: &mut Machine, device: &Value) -> Outcome<()> {
    let shown = shown(machine)?;
    ensure(
        shown["qdev"] == "/machine/peripheral/d0/virtio-backend",
        || shown.to_string(),
    )?;
    let mut other = device.clone();
    other["id"] = json!("other");
    for (arguments, why) in [(device, "Duplicate device ID"), (&other, "it's in use")] {
        let answer = machine.qmp.send("device_add", arguments.clone())?;
        let desc = answer["error"]["desc"].as_str().unwrap_or_default();
        ensure(desc.contains(why), || format!("{why}: {answer}"))?;
    }
    Ok(())
}

fn shown(machine: &mut Machine) -> Outcome<Value> {
    let disks = machine.qmp.run("query-block", json!({}))?;
    Ok(disks[0].clone())
}
