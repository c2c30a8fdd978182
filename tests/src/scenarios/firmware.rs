//! Disks that boot by themselves: firmware, GRUB, and what these find.

use crate::error::{Context, Outcome, ensure};
use crate::fixture::Fixture;
use crate::image::Tool;
use crate::machine::{Boot, Machine};
use std::fs;

const SECONDS: u64 = 120;

/// Runs it.
pub fn test(fixture: &mut Fixture) -> Outcome<()> {
    let grub = fixture.images.join("grub.img").display().to_string();
    let data = fixture.dir.join("data.img").display().to_string();
    Tool::QemuImg.run(&["create", "-q", "-f", "raw", &data, "1M"])?;
    let data = format!("file={data},format=raw");
    let overlay = fixture.dir.join("overlay.qcow2").display().to_string();
    Tool::StrataImg.run(&["create", "-f", "qcow2", "-b", &grub, "-F", "raw", &overlay])?;

    // The disk that comes first cannot be booted, and so is not.
    let disks = [data.clone(), format!("file={grub},format=raw,readonly=on")];
    let serial = boot(fixture, "virtio", &disks, 2)?;
    let count = |text: &str| serial.matches(text).count();
    ensure(
        count("Welcome to GRUB!") == 2 && count("SeaBIOS (version") >= 2,
        || "firmware and GRUB are not on the serial line twice".to_owned(),
    )?;
    fixture.verified("boot by virtio", "SeaBIOS, GRUB, 2 processors, ACPI tables");
    fixture.verified("jump to the BIOS", "the same again");
    fixture.verified("suspended to memory", "firmware has the guest go on");

    let disks = [
        format!("{data},bootindex=2"),
        format!("file={overlay},format=qcow2,if=ide,bootindex=1"),
    ];
    boot(fixture, "ide", &disks, 1)?;
    fixture.verified("boot by IDE", "a qcow2 overlay, by bootindex=");
    Ok(())
}

/// Boots `disks` until the guest powers off; what was on the serial line.
fn boot(fixture: &mut Fixture, name: &str, disks: &[String], cpus: u8) -> Outcome<String> {
    let boot = Boot {
        disks: disks.to_vec(),
        options: vec!["--cpus".to_owned(), cpus.to_string()],
        by_firmware: true,
        ..Boot::default()
    };
    fixture.say("boot", name);
    let mut machine = Machine::start(fixture, name, &boot)?;
    for line in [
        &format!("processors: {cpus}"),
        "was suspended",
        "powers off",
    ] {
        machine.wait_serial(line, SECONDS, |serial| serial.has_said(line))?;
        fixture.say("guest", line);
    }
    machine.wait_success(SECONDS)?;
    let log = fixture.logs.join(format!("{name}.serial"));
    let serial = fs::read(&log).context(log.display())?;
    Ok(without_cursor(&String::from_utf8_lossy(&serial)))
}

/// The text without the sequences that move a terminal's cursor, which firmware puts anywhere.
fn without_cursor(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, sequence)) = rest.split_once("\x1b[") {
        plain += before;
        let end = sequence.find(|c: char| c.is_ascii_alphabetic());
        rest = end.map_or("", |end| &sequence[end + 1..]);
    }
    plain + rest
}

#[cfg(test)]
mod tests;
