//! `--state-dir`: jobs that outlive a killed process.

use std::{fs, time::Duration};

use super::process::{Serve, Signal, client, qemu_img};

const EXPORT: &str = "type=nbd,disk=root,addr=unix:nbd.sock,writable=on";
const MIB: usize = 1 << 20;

/// Three layers, of which each has 8 MiB of its own, and what a copy of the disk holds.
fn three_layers(serve: &Serve) -> Vec<u8> {
    let (uri, mut qmp) = (serve.uri("root"), serve.qmp());
    let mut expected = vec![0; 64 * MIB];
    for (number, name) in [(1, ""), (2, "b"), (3, "c")] {
        if !name.is_empty() {
            let file = serve.path(&format!("{name}.qcow2"));
            qmp.run(&format!(
                r#"{{"execute":"blockdev-snapshot-sync","arguments":{{"device":"root","snapshot-file":"{file}"}}}}"#
            ));
        }
        let at = (number - 1) * 6;
        expected[at * MIB..][..8 * MIB].fill(number as u8);
        let write = format!("write -P {number} {at}M 8M");
        client("qemu-io", &["-f", "raw", "-c", &write, "-c", "flush", &uri]);
    }
    fs::write(serve.path("in"), &expected).unwrap();
    expected
}

fn serve_c(before: &Serve, more: &[&str]) -> Serve {
    let disk = "file=c.qcow2,format=qcow2,id=root";
    let args = ["--disk", disk, "--export", EXPORT, "--qmp", "unix:qmp"];
    let state = ["--state-dir", "."];
    before.otherwise(&[&args[..], &state, more].concat())
}

#[test]
fn jobs_go_on_after_kills() {
    let disk = "file=disk.qcow2,format=qcow2,id=root";
    let args = ["--disk", disk, "--export", EXPORT, "--qmp", "unix:qmp"];
    let mut serve = Serve::start(&[&args[..], &["--state-dir", "."]].concat());
    let expected = three_layers(&serve);
    let mut qmp = serve.qmp();
    for (cmd, goes_on) in [
        (
            r#"{"execute":"block-commit","arguments":{"device":"root","top":"b.qcow2","job-id":"down","speed":262144,"auto-dismiss":false}}"#,
            r#"{"execute":"job-resume","arguments":{"id":"down"}}"#,
        ),
        (
            r#"{"execute":"block-stream","arguments":{"device":"root","job-id":"up","speed":262144,"auto-dismiss":false}}"#,
            r#"{"execute":"block-job-resume","arguments":{"device":"up"}}"#,
        ),
    ] {
        qmp.run(cmd);
        for wait in [1, 150, 300] {
            std::thread::sleep(Duration::from_millis(wait));
            serve.signal(Signal::KILL);
            assert_eq!(serve.wait(), None);
            serve = serve_c(&serve, &[]);
            qmp = serve.qmp();
            let jobs = qmp.run(r#"{"execute":"query-jobs"}"#);
            assert!(jobs.contains(r#""status": "paused""#), "{jobs}");
            qmp.run(goes_on);
        }
        let id = if goes_on.contains("down") {
            "down"
        } else {
            "up"
        };
        qmp.run(&format!(
            r#"{{"execute":"block-job-set-speed","arguments":{{"device":"{id}","speed":0}}}}"#
        ));
        let end = qmp.event("BLOCK_JOB_COMPLETED");
        assert!(!end.contains("error"), "{end}");
        serve.signal(Signal::KILL);
        assert_eq!(serve.wait(), None);
        // Its result has been collected by nobody.
        serve = serve_c(&serve, &["--resume-jobs"]);
        qmp = serve.qmp();
        let jobs = qmp.run(r#"{"execute":"query-jobs"}"#);
        assert!(jobs.contains(r#""status": "concluded""#), "{jobs}");
        assert!(!jobs.contains("error"), "{jobs}");
        qmp.run(&format!(
            r#"{{"execute":"job-dismiss","arguments":{{"id":"{id}"}}}}"#
        ));
        client("nbdcopy", &[&serve.uri("root"), &serve.path("out")]);
        assert!(fs::read(serve.path("out")).unwrap() == expected);
    }
    qmp.run(r#"{"execute":"quit"}"#);
    assert_eq!(serve.wait(), Some(0));
    assert!(!fs::exists(serve.path("up.job")).unwrap());
    for name in ["disk", "b"] {
        fs::remove_file(serve.path(&format!("{name}.qcow2"))).unwrap();
    }
    let top = serve.path("c.qcow2");
    // Kills leave clusters to nobody.
    qemu_img(&["check", "-q", "-r", "leaks", "-f", "qcow2", &top]);
    qemu_img(&["check", "-f", "qcow2", &top]);
    let copy = serve.path("in");
    qemu_img(&["compare", "-f", "raw", "-F", "qcow2", &copy, &top]);
}

#[test]
fn a_directory_that_cannot_be_used_is_one_line() {
    let (code, error) = Serve::refused(&[
        "--disk",
        super::DISK,
        "--export",
        EXPORT,
        "--state-dir",
        "nosuch",
    ]);
    assert_eq!(code, Some(1));
    let words = "strata: --state-dir: could not use 'nosuch': No such file";
    assert!(
        error.starts_with(words) && error.lines().count() == 1,
        "{error}"
    );
}
