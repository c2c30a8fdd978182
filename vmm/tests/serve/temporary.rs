//! Disks whose changes are thrown away, in processes that share an image.

use std::{fs, process::Command};

use crate::process::{Serve, Signal, client};

const BASE: &str = "file=disk.qcow2,format=qcow2,id=root,snapshot=on";

fn export(socket: &str) -> String {
    format!("type=nbd,disk=root,addr=unix:{socket},writable=on")
}

fn write(pattern: u8, uri: &str) {
    let command = format!("write -q -P {pattern} 0 1M");
    client(
        "qemu-io",
        &["-f", "raw", "-c", &command, "-c", "flush", uri],
    );
}

#[test]
fn a_hundred_processes_share_an_image() {
    let first = Serve::start(&["--disk", BASE, "--export", &export("0.sock")]);
    let others = (1..100).map(|n| {
        let disk = "file=disk.qcow2,format=qcow2,id=root";
        first.otherwise(&[
            "--snapshot",
            "--disk",
            disk,
            "--export",
            &export(&format!("{n}.sock")),
        ])
    });
    let others: Vec<_> = others.collect();
    let uri = |n: usize| {
        format!(
            "nbd+unix:///root?socket={}",
            first.path(&format!("{n}.sock"))
        )
    };
    // Each sees what it has written itself, and the others do not.
    for n in [0, 1, 50, 99] {
        write(n as u8 + 1, &uri(n));
    }
    for (n, holds) in [(0, 1), (1, 2), (2, 0), (50, 51), (98, 0), (99, 100)] {
        let command = format!("read -q -P {holds} 0 1M");
        client("qemu-io", &["-f", "raw", "-r", "-c", &command, &uri(n)]);
    }
    // Readers share it, and nobody writes.
    let image = first.path("disk.qcow2");
    let writes = Command::new("qemu-io")
        .args(["-c", "write -q 0 512", &image])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&writes.stderr);
    assert!(said.contains("lock"), "{said}");
    drop(others);
    drop(first);
}

#[test]
fn a_kill_leaves_nothing_behind() {
    let mut serve = Serve::start(&["--qmp", "unix:qmp"]);
    let temporary = serve.path("temporary");
    fs::create_dir(&temporary).unwrap();
    let before = fs::read(serve.path("disk.qcow2")).unwrap();
    let args = [
        "--temp-dir",
        &temporary,
        "--disk",
        BASE,
        "--export",
        &export("nbd.sock"),
    ];
    let mut killed = serve.otherwise(&args);
    write(7, &killed.uri("root"));
    killed.signal(Signal::KILL);
    assert_eq!(killed.wait(), None);
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    assert_eq!(fs::read(serve.path("disk.qcow2")).unwrap(), before);
    serve.signal(Signal::TERM);
    assert_eq!(serve.wait(), Some(0));
}

#[test]
fn where_it_cannot_be_written_is_one_line() {
    let args = [
        "--snapshot",
        "--temp-dir",
        "nosuch",
        "--disk",
        "file=disk.qcow2,format=qcow2",
    ];
    let (code, error) = Serve::refused(&[&args[..], &["--qmp", "unix:qmp"]].concat());
    let expected = "strata: disk virtio0: could not make a temporary file in 'nosuch': \
                    No such file or directory (os error 2)\n";
    assert_eq!((code, error.as_str()), (Some(1), expected));
}
