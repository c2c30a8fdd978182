//! What a guest finds besides its disks, as its kernel and the usual tools show it.

use crate::error::{Context, Outcome, ensure};
use crate::fixture::Fixture;
use crate::image::Tool;
use crate::machine::{Boot, Machine};
use crate::program;
use serde_json::json;
use std::fs;
use std::time::Duration;

const SECONDS: u64 = 120;
const LIMIT: Duration = Duration::from_secs(SECONDS);

/// What the multiboot kernel prints that it was given, with `KERNEL` and `DIRECTORY` for paths.
const KERNEL: &str = "words: KERNEL some words
ranges of memory: 4
module DIRECTORY/one a=b: first
module DIRECTORY/two: second
that is all
";
/// What the PVH kernel prints, which is given no names.
const KERNEL_PVH: &str = "words: some words
ranges of memory: 4
module first
that is all
";

/// What the kernel prints that is started in real mode, after what firmware prints.
const KERNEL_REAL: &str = "
words: some words
main part: at 1 MiB
initrd: first
that is all
";

/// Runs it.
pub fn test(fixture: &mut Fixture) -> Outcome<()> {
    let boot = Boot {
        script: Some("platform"),
        // A jump to the BIOS, which there is none of.
        kernel: vec!["reboot=b".to_owned()],
        disks: disks(fixture)?,
        options: ["--cpus", "2"].map(str::to_owned).to_vec(),
        ..Boot::default()
    };
    let mut machine = Machine::start(fixture, "guest", &boot)?;
    let found = [
        ("memory types", "mtrrs are set"),
        ("SMBIOS", "it says who made it"),
        ("clock", "the clock was read"),
        ("alarm", "the alarm woke it"),
    ];
    for (what, line) in found {
        machine.wait_serial(line, SECONDS, |serial| serial.has_said(line))?;
        fixture.verified(what, line);
    }
    suspends(fixture, &mut machine)?;
    starts_again(fixture, &mut machine)?;
    drop(machine);
    for (name, kernel) in [
        ("multiboot", KERNEL),
        ("pvh", KERNEL_PVH),
        ("real", KERNEL_REAL),
    ] {
        small_kernel(fixture, name, kernel)?;
    }
    init_resets(fixture)?;
    starts_warm(fixture)?;
    reset_while_suspended(fixture)?;
    only_32_bits(fixture)?;
    large(fixture)
}

/// A disk of each kind.
fn disks(fixture: &Fixture) -> Outcome<Vec<String>> {
    let mut disks = Vec::new();
    for interface in ["virtio", "ide"] {
        let path = fixture.dir.join(interface).display().to_string();
        Tool::StrataImg.run(&["create", "-f", "qcow2", &path, "16M"])?;
        disks.push(format!("file={path},format=qcow2,if={interface}"));
    }
    Ok(disks)
}

/// The guest suspends to memory: its clock's alarm wakes it, then a monitor does.
fn suspends(fixture: &mut Fixture, machine: &mut Machine) -> Outcome<()> {
    let state = |machine: &mut Machine| -> Outcome<String> {
        let status = machine.qmp.run("query-status", json!({}))?;
        Ok(status["status"].to_string())
    };
    machine.qmp.wait_event("SUSPEND", 0, LIMIT)?;
    machine.qmp.wait_event("WAKEUP", 0, LIMIT)?;
    let line = "it was suspended";
    machine.wait_serial(line, SECONDS, |serial| serial.has_said(line))?;
    fixture.verified(
        "suspended to memory",
        "the alarm woke it, its disks are whole",
    );

    machine.wait("another SUSPEND", SECONDS, |machine| {
        let events = machine.qmp.events();
        Ok(events.iter().filter(|e| e.name() == "SUSPEND").count() == 2)
    })?;
    // Neither of them wakes it.
    machine.qmp.run("stop", json!({}))?;
    machine.qmp.run("cont", json!({}))?;
    let found = state(machine)?;
    ensure(found == "\"suspended\"", || found)?;
    let resize = json!({"device": "ide0-hd0", "size": 32 << 20});
    machine.qmp.run("block_resize", resize)?;
    machine.qmp.run("system_wakeup", json!({}))?;
    let line = "somebody woke it";
    machine.wait_serial(line, SECONDS, |serial| serial.has_said(line))?;
    let (found, again) = (
        state(machine)?,
        machine.qmp.send("system_wakeup", json!({}))?,
    );
    ensure(found == "\"running\"" && !again["error"].is_null(), || {
        format!("{found} {again}")
    })?;
    fixture.verified("system_wakeup", "the guest goes on");
    Ok(())
}

/// The guest resets itself by a jump to the BIOS. QMP's clients get the event, and it boots again.
fn starts_again(fixture: &mut Fixture, machine: &mut Machine) -> Outcome<()> {
    let event = machine.qmp.wait_event("RESET", 0, LIMIT)?;
    let expected = json!({"guest": true, "reason": "guest-reset"});
    ensure(event.value["data"] == expected, || format!("{event:?}"))?;
    machine.wait_serial("a second boot", SECONDS, |serial| {
        let begins = serial.said.iter().filter(|said| *said == "begins");
        begins.count() == 2
    })?;
    machine.qmp.run("quit", json!({}))?;
    fixture.verified(
        "reset by the BIOS",
        "reported on QMP, and the guest booted again",
    );
    Ok(())
}

/// A small kernel that is not Linux prints what it was given, and ends the run.
fn small_kernel(fixture: &mut Fixture, name: &str, expected: &str) -> Outcome<()> {
    let directory = fixture.dir.display().to_string();
    for (file, text) in [("one", "first"), ("two", "second")] {
        fs::write(fixture.dir.join(file), text).context(file)?;
    }
    let kernel = fixture
        .images
        .join("kernels")
        .join(name)
        .display()
        .to_string();
    let serial = fixture.logs.join(format!("{name}.serial"));
    let to_serial = format!("file:{}", serial.display());
    let initrd = match name {
        "multiboot" => format!("{directory}/one a=b,{directory}/two"),
        _ => format!("{directory}/one"),
    };
    let args = [
        "run",
        "--kernel",
        &kernel,
        "--initrd",
        &initrd,
        "--append",
        "some words",
    ];
    let more = [
        "--memory",
        "64M",
        "--exit-port",
        "0xf4",
        "--serial",
        &to_serial,
    ];
    let ended = program::run("strata", &[&args[..], &more[..]].concat(), LIMIT)?;
    let said = fs::read_to_string(&serial).context(&to_serial)?;
    let expected = expected
        .replace("KERNEL", &kernel)
        .replace("DIRECTORY", &directory);
    let said_all = match name {
        "real" => said.ends_with(&expected),
        _ => said == expected,
    };
    ensure(ended.code == Some(0) && said_all, || {
        format!("{name}: {ended:?} {said}")
    })?;
    fixture.verified(
        format!("{name} kernel"),
        "started with all it was given, and printed it",
    );
    Ok(())
}

/// INIT to the boot processor leads to the reset vector, where there is no firmware.
fn init_resets(fixture: &mut Fixture) -> Outcome<()> {
    let kernel = fixture
        .images
        .join("kernels/multiboot")
        .display()
        .to_string();
    let args = [
        "run", "--kernel", &kernel, "--append", "init", "--memory", "64M",
    ];
    let more = ["--serial", "none", "--no-reboot", "--timeout", "60s"];
    let ended = program::run("strata", &[&args[..], &more[..]].concat(), LIMIT)?;
    let is_right = ended.code == Some(102) && ended.stderr.contains("the guest reset the machine");
    ensure(is_right, || format!("{ended:?}"))?;
    fixture.verified("INIT to the boot processor", "an orderly reset");
    Ok(())
}

/// A reset after which the guest goes on where it has asked a BIOS to, with its memory; and the
/// test device, whose port has kept what it left there.
fn starts_warm(fixture: &mut Fixture) -> Outcome<()> {
    let kernel = fixture
        .images
        .join("kernels/multiboot")
        .display()
        .to_string();
    let args = [
        "run", "--kernel", &kernel, "--append", "warm", "--memory", "64M",
    ];
    let more = [
        "--serial",
        "none",
        "--test-device",
        "--exit-port",
        "0xf4",
        "--timeout",
        "60s",
    ];
    let ended = program::run("strata", &[&args[..], &more[..]].concat(), LIMIT)?;
    ensure(ended.code == Some(42), || format!("{ended:?}"))?;
    fixture.verified("a warm start", "the guest went on where it had asked to");
    Ok(())
}

/// A monitor resets a guest that has suspended to memory. A guest that asks for a reset and then to
/// be suspended is not: it would not wake up from that.
fn reset_while_suspended(fixture: &mut Fixture) -> Outcome<()> {
    let kernel = fixture.images.join("kernels/multiboot");
    let mut machine = Machine::start_kernel(fixture, "suspended", &kernel, "suspend")?;
    let serial = fixture.logs.join("suspended.serial");
    let starts = || fs::read_to_string(&serial).map_or(0, |said| said.matches("start ").count());
    machine.wait("a second start", SECONDS, |_| Ok(starts() == 2))?;
    machine.qmp.wait_event("SUSPEND", 0, LIMIT)?;
    ensure(starts() == 2, || format!("{} starts", starts()))?;
    machine.qmp.run("system_reset", json!({}))?;
    machine.wait_success(SECONDS)?;
    ensure(starts() == 3, || format!("{} starts", starts()))?;
    fixture.verified("reset while suspended", "the guest starts again");
    Ok(())
}

/// A bzImage whose only entry point is that for 32 bits.
fn only_32_bits(fixture: &mut Fixture) -> Outcome<()> {
    let kernel = fixture.images.join("kernels/memtest86+");
    let append = "console=ttyS0,115200";
    let mut machine = Machine::start_kernel(fixture, "memtest", &kernel, append)?;
    let serial = fixture.logs.join("memtest.serial");
    machine.wait("a screen of memtest86+", SECONDS, |_| {
        let said = fs::read(&serial).unwrap_or_default();
        Ok(String::from_utf8_lossy(&said).contains("Memtest86+"))
    })?;
    machine.qmp.run("quit", json!({}))?;
    fixture.verified("a 32-bit bzImage", "memtest86+ runs");
    Ok(())
}

/// More memory than there is room below 4 GiB, and more than the host has; eight processors.
fn large(fixture: &mut Fixture) -> Outcome<()> {
    let boot = Boot {
        script: Some("size"),
        options: ["--cpus", "8", "--memory", "6G"]
            .map(str::to_owned)
            .to_vec(),
        ..Boot::default()
    };
    let mut machine = Machine::start(fixture, "large", &boot)?;
    machine.wait_success(SECONDS)?;
    let said = machine.serial.said.join("; ");
    ensure(said == "processors 8; memory 5 GiB and some", || {
        said.clone()
    })?;
    fixture.verified("8 processors, 6 GiB", "all found");
    Ok(())
}
