//! What a guest finds besides its disks, by the word of its kernel and of the usual tools.

use crate::error::{Outcome, ensure};
use crate::machine::{Boot, Machine};
use crate::stage::Stage;
use serde_json::json;
use std::time::Duration;

const SECONDS: u64 = 120;

/// Plays it.
pub fn play(stage: &mut Stage) -> Outcome<()> {
    let boot = Boot {
        script: Some("platform"),
        // A jump to the BIOS, which there is none of.
        kernel: vec!["reboot=b".to_owned()],
        options: ["--cpus", "2"].map(str::to_owned).to_vec(),
        ..Boot::default()
    };
    let mut machine = Machine::start(stage, "guest", &boot)?;
    let found = [
        ("memory types", "mtrrs are set"),
        ("clock", "the clock was read"),
        ("alarm", "the alarm woke it"),
    ];
    for (what, line) in found {
        machine.wait_serial(line, SECONDS, |serial| serial.has_said(line))?;
        stage.verified(what, line);
    }
    starts_again(stage, &mut machine)
}

/// The guest resets itself by a jump to the BIOS. QMP's clients are told, and it comes up again.
fn starts_again(stage: &mut Stage, machine: &mut Machine) -> Outcome<()> {
    let limit = Duration::from_secs(SECONDS);
    let event = machine.qmp.wait_event("RESET", 0, limit)?;
    let expected = json!({"guest": true, "reason": "guest-reset"});
    ensure(event.value["data"] == expected, || format!("{event:?}"))?;
    machine.wait_serial("a second boot", SECONDS, |serial| {
        let begins = serial.said.iter().filter(|said| *said == "begins");
        begins.count() == 2
    })?;
    machine.qmp.run("quit", json!({}))?;
    stage.verified(
        "reset by the BIOS",
        "told to QMP, and the guest came up again",
    );
    Ok(())
}
