//! What clients are sent and when, at the beginning of jobs and at the end of it all.

use crate::{
    DISK, EXPORT,
    process::{Serve, Signal, client},
};

const QUIT: &str = r#"{"execute":"quit"}"#;

#[test]
fn events_of_a_command_come_before_its_answer() {
    let mut serve = Serve::start(&["--disk", DISK, "--qmp", "unix:qmp"]);
    let mut qmp = serve.qmp();
    let top = serve.path("top");
    qmp.run(&format!(
        r#"{{"execute":"blockdev-snapshot-sync","arguments":{{"device":"root","snapshot-file":"{top}"}}}}"#
    ));
    let lines = qmp.up_to_answer(r#"{"execute":"block-stream","arguments":{"device":"root"}}"#);
    let is_sent = |status: &str| lines.iter().any(|line| line.contains(status));
    assert!(is_sent(r#""status": "created""#), "{lines:?}");
    assert!(is_sent(r#""status": "running""#), "{lines:?}");
    qmp.event("BLOCK_JOB_COMPLETED");
    let lines = qmp.up_to_answer(QUIT);
    let shutdown = lines.iter().any(|line| line.contains("SHUTDOWN"));
    assert!(shutdown, "{lines:?}");
    assert_eq!(serve.wait(), Some(0));
}

#[test]
fn a_server_may_have_no_disk() {
    let mut serve = Serve::start(&["--qmp", "unix:qmp"]);
    let mut qmp = serve.qmp();
    assert_eq!(
        qmp.run(r#"{"execute":"query-block"}"#).trim_end(),
        r#"{"return": []}"#
    );
    qmp.run(QUIT);
    assert_eq!(serve.wait(), Some(0));
}

/// The disk's own server is gone, and may stay away for an hour: who asks for the end twice gets
/// it, and the monitor answers meanwhile.
#[test]
fn nobody_waits_at_the_end_for_a_server_that_has_gone() {
    let mut below = Serve::start(&["--disk", DISK, "--export", EXPORT]);
    let disk = format!(
        "file={},format=raw,id=far,reconnect-delay=3600",
        below.uri("root")
    );
    let export = "type=nbd,disk=far,addr=unix:far.sock,writable=on";
    let mut serve = below.otherwise(&["--disk", &disk, "--export", export, "--qmp", "unix:qmp"]);
    let uri = format!("nbd+unix:///far?socket={}", serve.path("far.sock"));
    client("qemu-io", &["-f", "raw", "-c", "write -P 7 0 1M", &uri]);
    let mut qmp = serve.qmp();
    below.signal(Signal::KILL);
    below.wait();
    serve.signal(Signal::TERM);
    qmp.event("SHUTDOWN");
    let disks = qmp.run(r#"{"execute":"query-block-jobs"}"#);
    assert_eq!(disks.trim_end(), r#"{"return": []}"#);
    serve.signal(Signal::TERM);
    assert_eq!(serve.wait(), Some(1));
}
