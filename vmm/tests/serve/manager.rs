//! A manager's script, as people have them, on PyPI's `qemu.qmp` (ci/setup installs it).

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use crate::{
    process::{Serve, client, qemu_img},
    sequences::client::Client,
};

/// Where ci/setup puts the package.
const PACKAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../.cache/tools/python");

/// Bytes of a cluster.
const CLUSTER: usize = 65536;

#[test]
fn a_manager_backs_up_two_disks_that_are_written() {
    let python = |args: &[&str]| {
        let mut command = Command::new("timeout");
        command.args(["120", "python3"]).args(args);
        command.env("PYTHONPATH", PACKAGES);
        command.output().unwrap()
    };
    if !python(&["-c", "import qemu.qmp"]).status.success() {
        println!("skipped: there is no qemu.qmp in {PACKAGES}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for id in ["a", "b"] {
        let image = directory.path().join(id).display().to_string();
        qemu_img(&["create", "-q", "-f", "qcow2", &image, "16M"]);
    }
    let mut serve = Serve::start_in(
        directory,
        &[
            "--disk",
            "file=a,format=qcow2,id=a",
            "--disk",
            "file=b,format=qcow2,id=b",
            "--export",
            "type=nbd,disk=a,addr=unix:a.sock,writable=on",
            "--export",
            "type=nbd,disk=b,addr=unix:b.sock,writable=on",
            "--qmp",
            "unix:qmp",
        ],
    );
    let stop = Arc::new(AtomicBool::new(false));
    let writers = ["a", "b"].map(|id| {
        let client = Client::connect(&serve.path(&format!("{id}.sock")), id);
        let stop = stop.clone();
        thread::spawn(move || write(client, &stop))
    });
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/serve/manager.py");
    let directory = serve.path("");
    let directory = directory.trim_end_matches('/');
    let output = python(&[script, &serve.path("qmp"), directory, "a", "b"]);
    stop.store(true, Ordering::Relaxed);
    let written = writers.map(|writer| writer.join().unwrap());
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serve.qmp().run(r#"{"execute":"quit"}"#);
    assert_eq!(serve.wait(), Some(0));
    for (id, expected) in ["a", "b"].iter().zip(written) {
        let (image, raw) = (serve.path(id), serve.path("raw"));
        qemu_img(&["check", "-q", "-f", "qcow2", &image]);
        let info = client("qemu-img", &["info", "--backing-chain", &image]);
        assert_eq!(info.matches("image: ").count(), 1, "{info}");
        qemu_img(&["convert", "-f", "qcow2", "-O", "raw", &image, &raw]);
        let found = std::fs::read(&raw).unwrap();
        let found: Vec<u8> = found.chunks(CLUSTER).map(|cluster| cluster[0]).collect();
        assert_eq!(found, expected, "{id}");
    }
}

/// Writes other numbers to one cluster after the other; returns those that stand there in the end.
fn write(mut client: Client, stop: &AtomicBool) -> Vec<u8> {
    let clusters = client.size() as usize / CLUSTER;
    let mut written = vec![0u8; clusters];
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        let cluster = turn * 7 % clusters;
        written[cluster] = written[cluster].wrapping_add(1);
        client.write((cluster * CLUSTER) as u64, &vec![written[cluster]; CLUSTER]);
        turn += 1;
        thread::sleep(Duration::from_millis(1));
    }
    written
}
