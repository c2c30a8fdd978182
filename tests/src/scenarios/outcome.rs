//! How a run ended: the exit status, the last line on standard error, the result's file.

mod core;

use crate::error::{Context, Outcome, ensure};
use crate::fixture::Fixture;
use crate::machine::{Boot, Machine};
use crate::program::{self, Ended, Running};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest that a guest may take to boot and end, in an emulated test host with other work beside
/// it.
const LIMIT: Duration = Duration::from_secs(120);
/// For a guest that hangs: the time in which it comes up beside others, and some.
const TIMEOUT: &str = "45s";

/// A guest, how it is run, and what is to come of it.
struct Case {
    name: &'static str,
    /// Words for the kernel.
    words: &'static str,
    options: &'static [&'static str],
    status: i32,
    /// Outcome in the file.
    outcome: &'static str,
    /// What the last line contains.
    says: &'static str,
    /// The report shows what the guest was doing.
    explained: bool,
    /// The guest's memory is written.
    core: bool,
}

const CASES: [Case; 6] = [
    Case {
        name: "code",
        words: "strata.mode=exit strata.code=7",
        options: &["--exit-port", "0xf4"],
        status: 7,
        outcome: "exit",
        says: "the guest ended with code 7",
        explained: false,
        core: false,
    },
    Case {
        name: "code as QEMU has it",
        words: "quiet strata.mode=exit strata.code=16",
        options: &["--exit-port", "0xf4,mapping=qemu"],
        status: 33,
        outcome: "exit",
        says: "the guest ended with code 33",
        explained: false,
        core: false,
    },
    Case {
        name: "panic, reported by the device",
        words: "panic=0 strata.mode=panic",
        options: &["--on-panic", "exit"],
        status: 101,
        outcome: "panic",
        says: "the guest's kernel panicked: sysrq triggered crash",
        explained: true,
        core: true,
    },
    Case {
        name: "panic, then a reset",
        words: "panic=-1 strata.mode=panic",
        options: &["--no-reboot"],
        status: 101,
        outcome: "panic",
        says: "the guest's kernel panicked: sysrq triggered crash",
        explained: true,
        core: true,
    },
    Case {
        name: "reset",
        words: "quiet strata.mode=reset",
        options: &["--on-reset", "exit"],
        status: 102,
        outcome: "reset",
        says: "the guest reset the machine",
        explained: false,
        core: false,
    },
    Case {
        name: "triple fault",
        words: "quiet reboot=t strata.mode=reset",
        options: &["--no-reboot"],
        status: 102,
        outcome: "triple-fault",
        says: "triple fault",
        explained: false,
        core: true,
    },
];

/// Most of its time it only waits, so it runs beside the others.
const TIME_OUT: Case = Case {
    name: "time-out",
    words: "strata.mode=hang",
    options: &["--timeout", TIMEOUT, "--cpus", "2"],
    status: 124,
    outcome: "timeout",
    says: "the guest had not ended after 45 s",
    explained: true,
    core: true,
};

/// Runs it.
pub fn test(fixture: &mut Fixture) -> Outcome<()> {
    let hangs = Run::start(fixture, &TIME_OUT)?;
    for case in &CASES {
        Run::start(fixture, case)?.end(fixture)?;
    }
    panic_pauses(fixture)?;
    hangs.end(fixture)?;
    refused(fixture)
}

/// A case that has been started.
struct Run {
    case: &'static Case,
    program: Running,
    result: PathBuf,
    core: PathBuf,
}

impl Run {
    /// Boots the guest with its kernel's messages on the console, if its words do not say
    /// otherwise, also those from before there is a user's program.
    fn start(fixture: &Fixture, case: &'static Case) -> Outcome<Run> {
        let result = fixture.logs.join(format!("{}.json", case.name));
        // A comma would end it in the option.
        let core = fixture.dir.join(case.name.replace(',', "") + ".core");
        // It must not stay where none is written.
        fs::write(&core, "an older one").context("core")?;
        let [kernel, initrd] = ["vmlinuz", "guest.img"].map(|name| fixture.images.join(name));
        let args = [
            "run",
            "--kernel",
            &kernel.display().to_string(),
            "--initrd",
            &initrd.display().to_string(),
            "--memory",
            "256M",
            "--append",
            &format!("console=ttyS0 {}", case.words),
            "--serial",
            "none",
            "--result",
            &result.display().to_string(),
            "--core",
            &format!("{},paging=on", core.display()),
        ];
        let args = args.iter().chain(case.options);
        let args = args.map(|arg| (*arg).to_owned()).collect();
        Ok(Run {
            case,
            program: Running::start("strata", args, LIMIT),
            result,
            core,
        })
    }

    /// Waits for its end, and judges it.
    fn end(self, fixture: &mut Fixture) -> Outcome<()> {
        let Run { case, core, .. } = self;
        let ended = self.program.end()?;
        let json = fs::read_to_string(&self.result).context(self.result.display())?;
        let json: Value = serde_json::from_str(&json).context(self.result.display())?;
        judge(fixture, case, &core, &ended, &json)
    }
}

fn judge(
    fixture: &mut Fixture,
    case: &Case,
    core: &Path,
    ended: &Ended,
    json: &Value,
) -> Outcome<()> {
    ensure(core.exists() == case.core, || {
        format!("{}: {ended:?} {json:#}", case.name)
    })?;
    if case.core {
        core::check(core, case.words, case.outcome != "triple-fault")?;
        fs::remove_file(core).context("core")?;
        let reported = json["core"] == core.display().to_string()
            && ended.stderr.contains("strata: the guest's memory is in ");
        ensure(reported, || format!("{}: {ended:?} {json:#}", case.name))?;
    }
    let last = ended.stderr.lines().last().unwrap_or_default();
    let expected = [json!(case.outcome), json!(case.status)];
    let is_right = ended.code == Some(case.status)
        && last.starts_with("strata: ")
        && last.contains(case.says)
        && [&json["outcome"], &json["exit-status"]] == [&expected[0], &expected[1]]
        && json["times"]["end"].as_f64() > json["times"]["kernel-entry"].as_f64();
    ensure(is_right, || format!("{}: {ended:?} {json:#}", case.name))?;
    if case.explained {
        explained(case, ended, json)?;
    } else {
        let only_line = ended.stderr.lines().count() == 1 + usize::from(case.core);
        ensure(only_line, || format!("{}: {ended:?}", case.name))?;
    }
    fixture.say("ended", last);
    fixture.verified(case.name, format!("exit status {}", case.status));
    Ok(())
}

/// The console's last lines and the vCPUs are reported in both places.
fn explained(case: &Case, ended: &Ended, json: &Value) -> Outcome<()> {
    let console = json["console"].as_array().map_or(0, Vec::len);
    let vcpus = json["vcpus"].as_array().cloned().unwrap_or_default();
    let on_stderr = |words: &str| ended.stderr.lines().any(|line| line.contains(words));
    let is_right = (10..=50).contains(&console)
        && on_stderr("the last lines of the guest's console")
        && on_stderr("strata: vCPU 0: in the kernel")
        && !vcpus.is_empty()
        && vcpus.iter().all(|vcpu| {
            vcpu["rip"]
                .as_str()
                .is_some_and(|rip| rip.starts_with("0x"))
        });
    ensure(is_right, || format!("{}: {ended:?} {json:#}", case.name))?;
    // With nothing to do all of them wait for an interrupt.
    let halted = vcpus.iter().filter(|vcpu| vcpu["halted"] == true).count();
    ensure(case.outcome != "timeout" || halted == 2, || {
        format!("{}: {json:#}", case.name)
    })
}

/// A kernel without a root file system panics before it has loaded any module: only the console
/// shows it.
fn panic_pauses(fixture: &mut Fixture) -> Outcome<()> {
    let boot = Boot {
        kernel: vec!["rdinit=/none".to_owned()],
        options: ["--on-panic", "pause", "--no-reboot"]
            .map(str::to_owned)
            .to_vec(),
        ..Boot::default()
    };
    let mut machine = Machine::start(fixture, "pause", &boot)?;
    let event = machine.qmp.wait_event("GUEST_PANICKED", 0, LIMIT)?;
    ensure(event.value["data"] == json!({"action": "pause"}), || {
        format!("{event:?}")
    })?;
    machine.qmp.wait_event("STOP", 0, LIMIT)?;
    let status = machine.qmp.run("query-status", json!({}))?;
    ensure(
        status["status"] == "guest-panicked" && status["running"] == false,
        || status.to_string(),
    )?;
    let said = machine.hmp.run("info status")?;
    ensure(said.contains("paused (guest-panicked)"), || said.clone())?;
    let core = fixture.dir.join("core");
    let dump = json!({"paging": true, "protocol": format!("file:{}", core.display())});
    machine.qmp.run("dump-guest-memory", dump)?;
    core::check(&core, "rdinit=/none", true)?;
    fs::remove_file(&core).context("core")?;
    let refused = machine
        .hmp
        .send("dump-guest-memory /no/such/directory/core")?;
    let wanted = "Error: could not write the core '/no/such/directory/core': No such file";
    ensure(refused.starts_with(wanted), || refused.clone())?;
    machine.qmp.run("quit", json!({}))?;
    fixture.verified("panic, seen on the console", "paused, to be looked at");
    Ok(())
}

/// What cannot be had is refused before the guest runs.
fn refused(fixture: &mut Fixture) -> Outcome<()> {
    let kernel = fixture.images.join("vmlinuz").display().to_string();
    let cases: [(&[&str], i32, &str); 4] = [
        (
            &["--core", "/no/such/directory/x"],
            125,
            "could not write --core /no/such/directory/x: No such file",
        ),
        (
            &["--exit-port", "0x3f8"],
            125,
            "--exit-port 0x3f8: another device has this port",
        ),
        (
            &["--result", "/no/such/directory/x"],
            125,
            "/no/such/directory/x",
        ),
        (&["--timeout", "never"], 2, "--timeout"),
    ];
    for (options, status, says) in cases {
        let args = [&["run", "--kernel", &kernel, "--serial", "none"], options].concat();
        let ended = program::run("strata", &args, LIMIT)?;
        let is_right = ended.code == Some(status) && ended.stderr.contains(says);
        ensure(is_right, || format!("{options:?}: {ended:?}"))?;
    }
    fixture.verified("options that cannot be", "refused before the guest runs");
    Ok(())
}
