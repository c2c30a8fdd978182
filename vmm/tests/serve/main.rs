//! The binary's `strata serve`, from its command line to its end. Needs Debian's `libnbd-bin`,
//! `qemu-utils`, `qemu-system-x86` and `fio`.

#![allow(clippy::unwrap_used)]

mod bitmaps;
mod ctl;
mod ends;
mod limit;
#[path = "../../../block/storage/src/lossy.rs"]
mod lossy;
mod lossy_device;
mod manager;
mod nodes;
mod process;
mod sequences;
mod start;
mod state;
mod temporary;

use std::{fs, process::Command, time::Duration};

use process::{Serve, Signal, client, qemu_img};

const DISK: &str = "file=disk.qcow2,format=qcow2,id=root,discard=unmap";
const EXPORT: &str = "type=nbd,disk=root,addr=unix:nbd.sock,writable=on";

#[test]
fn an_export_lives_through_snapshots_commits_and_a_merge_under_load() {
    let mut serve = Serve::start(&["--disk", DISK, "--export", EXPORT, "--qmp", "unix:qmp"]);
    let uri = serve.uri("root");
    let mut fio = Command::new("fio");
    fio.args([
        "--name=load",
        "--ioengine=nbd",
        "--rw=randrw",
        "--bsrange=4k-128k",
    ])
    .args([
        "--iodepth=8",
        "--size=24M",
        "--loops=2",
        "--verify=crc32c",
        "--fsync=32",
    ])
    .args(["--verify_fatal=1", "--verify_state_save=0"])
    .arg(format!("--uri={uri}"));
    let load = fio
        .stdout(fs::File::create(serve.path("fio.log")).unwrap())
        .spawn();
    let mut load = load.expect("fio runs");
    let mut qmp = serve.qmp();
    // The load has really begun.
    while fs::metadata(serve.path("disk.qcow2")).unwrap().len() < 4 << 20 {
        std::thread::sleep(Duration::from_millis(5));
    }
    for name in ["b", "c"] {
        let file = serve.path(&format!("{name}.qcow2"));
        qmp.run(&format!(
            r#"{{"execute":"blockdev-snapshot-sync","arguments":{{"device":"root","snapshot-file":"{file}"}}}}"#
        ));
    }
    qmp.run(r#"{"execute":"block-commit","arguments":{"device":"root","top":"b.qcow2","speed":16777216}}"#);
    let shown = qmp.run(
        r#"{"execute":"human-monitor-command","arguments":{"command-line":"info block-jobs"}}"#,
    );
    assert!(
        shown.contains("Type commit, device root: Completed"),
        "{shown}"
    );
    let completed = qmp.event("BLOCK_JOB_COMPLETED");
    assert!(completed.contains(r#""type": "commit""#), "{completed}");
    qemu_img(&["check", "-U", "-f", "qcow2", &serve.path("disk.qcow2")]);
    fs::remove_file(serve.path("b.qcow2")).unwrap();
    qmp.run(r#"{"execute":"block-commit","arguments":{"device":"root"}}"#);
    qmp.event("BLOCK_JOB_READY");
    let jobs = qmp.run(r#"{"execute":"query-block-jobs"}"#);
    assert!(jobs.contains(r#""actively-synced": true"#), "{jobs}");
    qmp.run(r#"{"execute":"block-job-complete","arguments":{"device":"root"}}"#);
    qmp.event("BLOCK_JOB_COMPLETED");
    let file = serve.path("d.qcow2");
    qmp.run(&format!(
        r#"{{"execute":"blockdev-snapshot-sync","arguments":{{"device":"root","snapshot-file":"{file}"}}}}"#
    ));
    qmp.run(r#"{"execute":"block-stream","arguments":{"device":"root","speed":16777216}}"#);
    qmp.event("BLOCK_JOB_COMPLETED");
    let status = load.wait().unwrap();
    assert!(
        status.success(),
        "{}",
        fs::read_to_string(serve.path("fio.log")).unwrap()
    );
    client("nbdcopy", &["--flush", &uri, &serve.path("copy.raw")]);
    qmp.run(r#"{"execute":"quit"}"#);
    assert_eq!(serve.wait(), Some(0));
    let top = serve.path("d.qcow2");
    fs::remove_file(serve.path("disk.qcow2")).unwrap();
    fs::remove_file(serve.path("c.qcow2")).unwrap();
    qemu_img(&["check", "-f", "qcow2", &top]);
    qemu_img(&[
        "compare",
        "-f",
        "raw",
        "-F",
        "qcow2",
        &serve.path("copy.raw"),
        &top,
    ]);
}

#[test]
fn a_server_is_started_and_stopped_over_the_monitor() {
    let mut serve = Serve::start(&["--disk", DISK, "--qmp", "unix:qmp"]);
    let mut qmp = serve.qmp();
    let socket = serve.path("nbd.sock");
    qmp.run(&format!(
        r#"{{"execute":"nbd-server-start","arguments":{{"addr":{{"type":"unix","data":{{"path":"{socket}"}}}}}}}}"#
    ));
    qmp.run(r#"{"execute":"nbd-server-add","arguments":{"device":"root","writable":true}}"#);
    let uri = serve.uri("root");
    client("nbdinfo", &[&uri]);
    let exports = qmp.run(r#"{"execute":"query-block-exports"}"#);
    assert!(exports.contains(r#""id": "root""#), "{exports}");
    qmp.run(r#"{"execute":"nbd-server-remove","arguments":{"name":"root"}}"#);
    qmp.event("BLOCK_EXPORT_DELETED");
    qmp.run(r#"{"execute":"nbd-server-stop"}"#);
    assert!(!fs::exists(&socket).unwrap());
    serve.signal(Signal::TERM);
    assert_eq!(serve.wait(), Some(0));
}

#[test]
fn what_was_flushed_survives_a_kill() {
    let mut serve = Serve::start(&["--disk", DISK, "--export", EXPORT]);
    let uri = serve.uri("root");
    fs::write(serve.path("in"), vec![0x5a; 8 << 20]).unwrap();
    client("nbdcopy", &["--flush", &serve.path("in"), &uri]);
    serve.signal(Signal::KILL);
    assert_eq!(serve.wait(), None);
    // The socket that the dead server left is replaced.
    let mut again = serve.again();
    client("nbdcopy", &[&uri, &again.path("out")]);
    again.signal(Signal::INT);
    assert_eq!(again.wait(), Some(0));
    let out = fs::read(again.path("out")).unwrap();
    assert!(out[..8 << 20].iter().all(|byte| *byte == 0x5a));
    qemu_img(&["check", "-f", "qcow2", &again.path("disk.qcow2")]);
}

#[test]
fn what_cannot_be_served_is_one_line() {
    for (args, expected) in [
        (
            [
                "--disk",
                DISK,
                "--export",
                "type=nbd,disk=boot,addr=unix:nbd.sock",
            ],
            "strata: export of boot: Cannot find device='boot'",
        ),
        (
            [
                "--disk",
                DISK,
                "--export",
                "type=nbd,disk=root,addr=unix:disk.qcow2",
            ],
            "strata: export of root: could not listen at unix:disk.qcow2: a file of this name exists and is not a socket",
        ),
        (
            [
                "--disk",
                DISK,
                "--export",
                "type=nbd,disk=root,addr=unix:no/nbd.sock",
            ],
            "strata: export of root: could not listen at unix:no/nbd.sock: No such file",
        ),
        (
            ["--disk", "file=nosuch,format=raw", "--export", EXPORT],
            "strata: disk virtio0: could not open 'nosuch': No such file",
        ),
    ] {
        let (code, error) = Serve::refused(&args);
        assert_eq!(code, Some(1), "{args:?}");
        assert!(
            error.starts_with(expected) && error.lines().count() == 1,
            "{error}"
        );
    }
}
