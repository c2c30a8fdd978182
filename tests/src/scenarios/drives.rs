//! How disks and a CD drive identify themselves, as the kernel and the programs that people use
//! with real drives show it.

use crate::error::{Outcome, ensure};
use crate::image::Tool;
use crate::machine::{Boot, Machine};
use crate::stage::Stage;
use serde_json::json;

const SECONDS: u64 = 120;
/// Bytes of small disks, and what they grow to.
const SIZES: [u64; 2] = [64 << 20, 96 << 20];

/// Plays it: four IDE drives, one of them for CDs, and two virtio disks, in one guest, which
/// firmware starts from the CD.
pub fn play(stage: &mut Stage) -> Outcome<()> {
    let mut machine = Machine::start(stage, "guest", &boot(stage)?)?;
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
        stage.verified(what, line);
    }
    stage.verified("boot from the CD", "SeaBIOS and GRUB have read it");
    let ready = "ready for other sizes";
    machine.wait_serial(ready, SECONDS, |serial| serial.has_said(ready))?;
    for device in ["virtio1", "ide1-hd1"] {
        let resize = json!({"device": device, "size": SIZES[1]});
        machine.qmp.run("block_resize", resize)?;
    }
    machine.wait_success(SECONDS)?;
    for (what, line) in [
        ("resize, virtio", "another size shows by itself"),
        (
            "resize, IDE",
            "another size shows when the drive is found again",
        ),
    ] {
        let said = machine.serial.has_said(line);
        ensure(said, || format!("the guest has not said: {line}"))?;
        stage.verified(what, line);
    }
    Ok(())
}

fn boot(stage: &Stage) -> Outcome<Boot> {
    let image = |name: &str, format: &str, size: u64| -> Outcome<String> {
        let path = stage.dir.join(name);
        Tool::QemuImg.create(&path, format, &size.to_string())?;
        Ok(format!("file={},format={format}", path.display()))
    };
    let small = |name: &str| image(name, "raw", SIZES[0]);
    let disc = stage.images.join("disc.iso");
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
