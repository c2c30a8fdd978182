use std::time::Duration;

use super::*;

fn ended(outcome: Outcome, begin: Instant) -> Ended {
    Ended {
        outcome,
        started: Some(begin + Duration::from_millis(250)),
        ended: begin + Duration::from_secs(2),
        first_request: None,
        vcpus: Vec::new(),
        disks: Vec::new(),
    }
}

fn result(run: Result<Ended, RunError>, begin: Instant) -> (RunResult, serde_json::Value) {
    let result = RunResult::new(
        Some(Path::new("/boot/vmlinuz")),
        run,
        &Transcript::default(),
        begin,
    );
    let json = serde_json::to_value(&result).unwrap();
    (result, json)
}

#[test]
fn a_guest_that_gave_a_code() {
    let begin = Instant::now();
    let (result, json) = result(Ok(ended(Outcome::Exited(300), begin)), begin);
    assert_eq!(
        result.for_people(),
        "strata: the guest ended with code 300 (exit status 99)\n"
    );
    assert_eq!(json["outcome"], "exit");
    assert_eq!(json["exit-status"], 99);
    assert_eq!(json["code"], 300);
    assert_eq!(json["times"]["kernel-entry"], 0.25);
    assert_eq!(json["times"]["end"], 2.0);
    assert_eq!(json["times"].get("first-disk-request"), None);
    assert_eq!(json["versions"]["kernel"], "/boot/vmlinuz");
}

#[test]
fn a_failure_of_strata_is_told_apart_from_the_guests_end() {
    let begin = Instant::now();
    let (result, json) = result(Err(RunError::Guest("vCPU 0 stopped".to_owned())), begin);
    assert_eq!(
        result.for_people(),
        "strata: the guest cannot go on: vCPU 0 stopped\n"
    );
    assert_eq!(
        (&json["outcome"], &json["exit-status"]),
        (&"failed".into(), &125.into())
    );
    assert_eq!(json.get("code"), None);
}

#[test]
fn a_command_speaks_for_itself_unless_the_guest_ended_before_it() {
    let begin = Instant::now();
    let kernel = Path::new("/boot/vmlinuz");
    let of = |outcome| {
        let run = Ok(ended(outcome, begin));
        RunResult::of_command(Some(kernel), run, &Transcript::default(), begin)
    };
    let result = of(Outcome::Command(42));
    assert_eq!((result.exit_status, result.code), (42, Some(42)));
    assert_eq!(result.for_people(), "");
    for outcome in [Outcome::PoweredOff, Outcome::Signal, Outcome::Quit] {
        let result = of(outcome);
        assert_eq!((result.exit_status, result.code), (125, None));
        let said = result.for_people();
        assert!(said.ends_with(" before the command had ended\n"), "{said}");
    }
    let result = of(Outcome::Panicked(None));
    assert_eq!((result.exit_status, result.outcome), (101, "panic"));
}
