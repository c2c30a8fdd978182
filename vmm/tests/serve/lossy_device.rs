//! A host that loses what clients and a merge have written.

use std::process::Command;

use crate::{
    DISK, EXPORT,
    lossy::LossyDevice,
    process::{Serve, Signal, client},
};

/// Has a client write a byte at the beginning, and flush.
fn write_and_flush(uri: &str) -> Result<(), String> {
    let mut command = Command::new("qemu-io");
    command.args(["-f", "raw", "-c", "write -P 2 0 512", "-c", "flush", uri]);
    let output = command.output().unwrap();
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8(output.stdout).unwrap())
    }
}

#[test]
fn whoever_flushes_is_told_and_a_merge_is_not_completed() {
    let Some(mut device) = LossyDevice::new(32, 3..5) else {
        return;
    };
    let mut serve = Serve::start(&["--disk", DISK, "--export", EXPORT, "--qmp", "unix:qmp"]);
    let uri = serve.uri("root");
    client(
        "qemu-io",
        &["-f", "raw", "-c", "write -P 1 0 16M", "-c", "flush", &uri],
    );
    let mut qmp = serve.qmp();
    let top = device.directory().join("B.qcow2").display().to_string();
    qmp.run(&format!(
        r#"{{"execute":"blockdev-snapshot-sync","arguments":{{"device":"root","snapshot-file":"{top}"}}}}"#
    ));
    qmp.run(r#"{"execute":"block-stream","arguments":{"device":"root"}}"#);
    let end = qmp.event("BLOCK_JOB_COMPLETED");
    assert!(end.contains(r#""error": ""#), "{end}");
    // Each with a connection of its own.
    for _ in 0..2 {
        let error = write_and_flush(&uri).unwrap_err();
        assert!(error.contains("Input/output error"), "{error}");
    }
    serve.signal(Signal::TERM);
    assert_eq!(serve.wait(), Some(1));
    // The base has everything.
    let base = serve.path("disk.qcow2");
    client(
        "qemu-io",
        &["-r", "-f", "qcow2", "-c", "read -P 1 0 16M", &base],
    );
}

/// One client's flush takes the error; the other one's fails as well.
#[test]
fn a_flush_that_failed_for_one_client_fails_for_all_on_a_raw_disk() {
    let Some(device) = LossyDevice::new(8, 1..8) else {
        return;
    };
    let disk = format!("file={},format=raw,id=root", device.path().display());
    let mut serve = Serve::start(&["--disk", &disk, "--export", EXPORT]);
    let uri = serve.uri("root");
    client(
        "qemu-io",
        &["-f", "raw", "-c", "write -P 1 0 6M", "-t", "unsafe", &uri],
    );
    for _ in 0..2 {
        write_and_flush(&uri).unwrap_err();
        device.mend();
    }
    serve.signal(Signal::TERM);
    assert_eq!(serve.wait(), Some(1));
    // Opened again, with a device that has room, all is well.
    let again = serve.again();
    write_and_flush(&uri).unwrap();
    drop(again);
}
