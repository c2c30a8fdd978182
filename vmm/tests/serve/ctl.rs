//! `strata ctl` on a running `strata serve`.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::net::UnixListener,
    process::{Command, Stdio},
};

use rustix::process::{Pid, kill_process};
use serde_json::Value;

use super::process::{Serve, Signal, client, qemu_img};

const DISK: &str = "file=disk.qcow2,format=qcow2,id=root";

fn start() -> Serve {
    Serve::start(&["--disk", DISK, "--qmp", "unix:qmp"])
}

/// The same with a disk that is full, under an empty overlay.
fn start_full() -> Serve {
    let mut empty = start();
    empty.ctl_done(&["hmp", "quit"]);
    empty.wait();
    let image = empty.path("disk.qcow2");
    client(
        "qemu-io",
        &["-f", "qcow2", "-c", "write -P 7 0 64M", &image],
    );
    let serve = empty.again();
    serve.ctl_done(&["snapshot", "root", "b.qcow2"]);
    serve
}

/// The one line of a `strata ctl` that fails.
fn line(serve: &Serve, args: &[&str]) -> String {
    let (code, output, error) = serve.ctl(args);
    assert_eq!((code, &*output), (Some(1), ""), "{args:?}: {error}");
    assert_eq!(error.lines().count(), 1, "{args:?}: {error}");
    error.trim_end().to_owned()
}

#[test]
fn snapshots_merges_and_commits_by_their_verbs() {
    let mut serve = start();
    let made = serve.ctl_done(&["snapshot", "root", "b.qcow2"]);
    let b = serve.path("b.qcow2");
    assert_eq!(made, format!("root: the guest writes to {b} (qcow2) now\n"));
    serve.ctl_done(&["snapshot", "root", "c.qcow2", "--format", "qcow2"]);
    let status = serve.ctl_done(&["status"]);
    assert!(status.starts_with("running (strata "), "{status}");
    assert!(status.contains("root  64 MiB       3  /"), "{status}");
    assert!(status.ends_with("\nno jobs\n"), "{status}");

    let merged = serve.ctl_done(&["merge", "root", "--base", "disk.qcow2"]);
    let mut lines = merged.lines();
    assert_eq!(lines.next(), Some("root: merging"));
    let last = lines.next_back().unwrap();
    assert!(last.starts_with("root: merged in "), "{merged}");
    let status = serve.ctl_done(&["--json", "status"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    let top = &status["disks"][0]["inserted"];
    assert_eq!(top["backing_file_depth"], 1, "{status}");
    assert_eq!(top["file"], serve.path("c.qcow2"));

    // The top: it is completed when it is ready.
    let committed = serve.ctl_done(&["commit", "root", "--json"]);
    let committed: Value = serde_json::from_str(&committed).unwrap();
    assert_eq!(committed["status"], "completed");
    assert_eq!(committed["type"], "commit");
    let shown = serve.ctl_done(&["hmp", "info block root"]);
    assert!(shown.starts_with("root (#block"), "{shown}");
    assert!(shown.contains("disk.qcow2 (qcow2)\n"), "{shown}");
    assert_eq!(serve.ctl_done(&["jobs"]), "no jobs\n");

    let version = serve.ctl_done(&["qmp", r#"{"execute": "query-version"}"#]);
    assert!(version.contains(r#""package": "strata "#), "{version}");
    serve.ctl_done(&["hmp", "quit"]);
    assert_eq!(serve.wait(), Some(0));
    qemu_img(&["check", "-q", "-f", "qcow2", &serve.path("disk.qcow2")]);
}

#[test]
fn a_layer_in_the_middle_is_committed() {
    let serve = start();
    for file in ["b.qcow2", "c.qcow2", "d.qcow2"] {
        serve.ctl_done(&["snapshot", "root", file]);
    }
    serve.ctl_done(&["commit", "root", "--top", "c.qcow2", "--base", "b.qcow2"]);
    let status = serve.ctl_done(&["status"]);
    assert!(status.contains("root  64 MiB       3  /"), "{status}");
}

#[test]
fn who_does_not_wait_leaves_the_job_running() {
    let serve = start_full();
    let started = serve.ctl_done(&["merge", "root", "--speed", "64k", "--detach"]);
    let expected = "root: merging in the background; 'jobs' shows how far it is\n";
    assert_eq!(started, expected);
    let jobs = serve.jobs_once_copying();
    assert!(jobs.starts_with("JOB   KIND    STATUS   COPIED "), "{jobs}");
    assert!(jobs.contains(" of 64 MiB ("), "{jobs}");
    let shown = serve.ctl_done(&["hmp", "info block-jobs -v"]);
    let status = "    Status:           running (copying)\n";
    assert!(shown.contains(status), "{shown}");
    assert!(shown.contains(" of 67108864 bytes\n"), "{shown}");
    let busy = line(&serve, &["merge", "root"]);
    assert_eq!(busy, "strata: Job ID 'root' already in use");
    serve.ctl_done(&["hmp", "block_job_cancel root"]);
}

#[test]
fn ctrl_c_ends_the_waiting_alone_and_a_cancelled_job_is_a_failure() {
    let serve = start_full();
    let wait = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
        command.args(["ctl", &serve.path("qmp")]);
        command.args(["merge", "root", "--speed", "64k"]);
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let mut first = String::new();
        let mut output = BufReader::new(child.stdout.as_mut().unwrap());
        output.read_line(&mut first).unwrap();
        assert_eq!(first, "root: merging\n");
        child
    };
    let child = wait();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let error = String::from_utf8(output.stderr).unwrap();
    let expected =
        "strata: the job goes on: 'jobs' shows it, hmp 'block_job_cancel root' ends it\n";
    assert_eq!(error, expected);
    serve.jobs_once_copying();
    serve.ctl_done(&["hmp", "block_job_cancel root"]);
    while serve.ctl_done(&["jobs"]) != "no jobs\n" {}

    let child = wait();
    serve.ctl_done(&["hmp", "block_job_cancel root"]);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(error, "strata: root: the job was cancelled\n");
}

#[test]
fn what_cannot_be_done_is_one_line() {
    let serve = start();
    for (args, expected) in [
        (
            &["merge", "rot"][..],
            "strata: no disk is called 'rot': there is 'root'",
        ),
        (
            &["merge", "root", "--base", "nosuch"],
            "strata: Can't find 'nosuch' in the backing chain",
        ),
        (
            &["commit", "root"],
            "strata: cannot commit an image into itself",
        ),
        (
            &["snapshot", "root", "/nosuch/b.qcow2"],
            "strata: Could not create '/nosuch/b.qcow2': No such file or directory",
        ),
        (&["hmp", "fly"], "strata: unknown command: 'fly'"),
        (
            &["hmp", "block_stream nosuch"],
            "strata: Cannot find device='nosuch' nor node-name='nosuch'",
        ),
        (
            &["qmp", "{}"],
            r#"strata: a command is written as {"execute": "query-block"}"#,
        ),
        (
            &["qmp", r#"{"execute": "fly"}"#],
            "strata: The command fly has not been found",
        ),
    ] {
        assert_eq!(line(&serve, args), expected, "{args:?}");
    }
}

#[test]
fn what_is_no_qmp_socket_is_told_apart() {
    let serve = Serve::start(&["--disk", DISK, "--qmp", "unix:qmp", "--monitor", "unix:hmp"]);
    drop(serve.qmp());
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    fs::write(path("file"), "").unwrap();
    drop(UnixListener::bind(path("left")).unwrap());
    for (socket, expected) in [
        (path("nosuch"), "there is no socket '"),
        (path("file"), "' is not a socket: give the one that"),
        (path("left"), "': the program that made it has ended\n"),
        (
            serve.path("hmp"),
            "' is not a QMP socket: it begins with 'strata ",
        ),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
        let output = command.args(["ctl", &socket, "status"]).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(
            error.starts_with("strata: ") && error.contains(expected),
            "{error}"
        );
    }
}

#[test]
fn a_chain_is_drawn_with_what_each_layer_holds() {
    let serve = start_full();
    let drawn = serve.ctl_done(&["chain", "root"]);
    let mut lines = drawn.lines();
    let first = lines.next().unwrap();
    assert!(first.starts_with("root: 64 MiB, 2 layers, 64."), "{drawn}");
    let top = format!("● {} (qcow2)", serve.path("b.qcow2"));
    assert!(drawn.contains(&top), "{drawn}");
    assert!(drawn.contains(" on disk, no data\n"), "{drawn}");
    assert!(
        drawn.contains(" on disk, 64 MiB of data, all shown"),
        "{drawn}"
    );
    assert!(
        drawn.contains(&format!("\n    {}\n", "█".repeat(76))),
        "{drawn}"
    );
    assert_eq!(serve.ctl_done(&["chain"]), drawn, "all of the disks");
    let chains: Value = serde_json::from_str(&serve.ctl_done(&["chain", "--json"])).unwrap();
    let layers = &chains[0]["layers"];
    assert_eq!(
        (&layers[0]["data"], &layers[1]["shown"]),
        (&0.into(), &(64 << 20).into())
    );
    let refused = line(&serve, &["chain", "nosuch"]);
    assert_eq!(
        refused,
        "strata: no disk is called 'nosuch': there is 'root'"
    );
}

#[test]
fn several_disks_are_merged_as_one() {
    let mut serve = start();
    let more = serve.path("more.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", &more, "64M"]);
    let second = "file=more.qcow2,format=qcow2,id=data";
    serve.ctl_done(&["hmp", "quit"]);
    serve.wait();
    let serve = serve.otherwise(&["--disk", DISK, "--disk", second, "--qmp", "unix:qmp"]);
    serve.ctl_done(&["snapshot", "root", "b.qcow2"]);
    serve.ctl_done(&["snapshot", "data", "c.qcow2"]);
    let twice = line(&serve, &["merge", "root", "data", "root"]);
    assert_eq!(twice, "strata: 'root' is named twice");
    let merged = serve.ctl_done(&["merge", "root", "data"]);
    assert!(
        merged.starts_with("root: merging\ndata: merging\n"),
        "{merged}"
    );
    for disk in ["root", "data"] {
        assert!(
            merged.contains(&format!("\n{disk}: merged in ")),
            "{merged}"
        );
    }
    let status = serve.ctl_done(&["status"]);
    for disk in ["root", "data"] {
        let alone = format!("\n{disk}  64 MiB       1  ");
        assert!(status.contains(&alone), "{status}");
    }
}
