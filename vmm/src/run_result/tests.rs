use std::time::Duration;

use super::*;
use crate::machine::CoreError;

fn ended(outcome: Outcome, begin: Instant) -> Ended {
    Ended {
        outcome,
        started: Some(begin + Duration::from_millis(250)),
        ended: begin + Duration::from_secs(2),
        first_request: None,
        vcpus: Vec::new(),
        disks: Vec::new(),
        core: None,
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
fn a_core_is_told_of_and_why_there_is_none() {
    let begin = Instant::now();
    let with_core = |core| Ended {
        core: Some(core),
        ..ended(Outcome::Panicked(None), begin)
    };
    let (written, json) = result(Ok(with_core(Ok("vm.core".into()))), begin);
    assert_eq!(
        written.for_people(),
        "strata: the guest's memory is in 'vm.core'\nstrata: the guest's kernel panicked\n"
    );
    assert_eq!(
        (&json["core"], json.get("core-error")),
        (&"vm.core".into(), None)
    );
    let error = CoreError {
        path: "vm.core".into(),
        source: io::ErrorKind::StorageFull.into(),
    };
    let (failed, json) = result(Ok(with_core(Err(error))), begin);
    let why = "could not write the core 'vm.core': no storage space";
    assert_eq!(
        failed.for_people(),
        format!("strata: {why}\nstrata: the guest's kernel panicked\n")
    );
    // What the guest did counts more.
    assert_eq!(
        (&json["core-error"], json.get("core"), &json["exit-status"]),
        (&why.into(), None, &101.into())
    );
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
    for outcome in [
        Outcome::PoweredOff,
        Outcome::Signal,
        Outcome::Quit,
        Outcome::Left,
    ] {
        let result = of(outcome);
        assert_eq!((result.exit_status, result.code), (125, None));
        let said = result.for_people();
        assert!(said.ends_with(" before the command had ended\n"), "{said}");
    }
    let result = of(Outcome::Panicked(None));
    assert_eq!((result.exit_status, result.outcome), (101, "panic"));
}

/// What `run` is in JUnit's words.
fn junit(run: Result<Ended, RunError>, begin: Instant) -> String {
    let mut text = Vec::new();
    let (result, _) = result(run, begin);
    let written = result.write_junit("strata test", "sh -c 'a < b'", &mut text);
    written.unwrap();
    String::from_utf8(text).unwrap()
}

#[test]
fn ci_servers_are_told_of_one_test() {
    let begin = Instant::now();
    let text = junit(Ok(ended(Outcome::Command(0), begin)), begin);
    for wanted in [
        r#"<testsuites name="strata" tests="1" skipped="0" failures="0" errors="0""#,
        r#"<testsuite name="strata test" tests="1""#,
        r#"classname="vmlinuz""#,
        r#"name="sh -c &apos;a &lt; b&apos;""#,
        r#"time="2.000""#,
        r#"<property name="outcome" value="command"/>"#,
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    assert!(!text.contains("<failure"), "{text}");
}

#[test]
fn ci_servers_are_told_who_failed() {
    let begin = Instant::now();
    for (run, wanted) in [
        (
            Ok(ended(Outcome::Command(3), begin)),
            r#"<failure message="the command ended with status 3" type="command""#,
        ),
        // The command's own status means what the command says.
        (
            Ok(ended(Outcome::Command(125), begin)),
            r#"<failure message="the command ended with status 125""#,
        ),
        (
            Ok(ended(Outcome::Panicked(Some("no\u{1}init".into())), begin)),
            "<failure message=\"the guest's kernel panicked: noinit\" type=\"panic\"",
        ),
        (
            Ok(ended(Outcome::TimedOut(Duration::from_secs(9)), begin)),
            r#"<failure message="the guest had not ended after 9 s" type="timeout""#,
        ),
        (
            Err(RunError::Guest("vCPU 0 stopped".to_owned())),
            r#"<error message="the guest cannot go on: vCPU 0 stopped" type="failed""#,
        ),
    ] {
        let text = junit(run, begin).replace("&apos;", "'");
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
}
