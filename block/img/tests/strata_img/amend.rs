//! `amend`, beside `qemu-img`.

use crate::{Directory, text};

/// A chain whose top has options, zero clusters, and a snapshot where refcounts are not said.
fn prepared(options: &str) -> Directory {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "qcow2", "base.qcow2", "4M"]);
    directory.qemu_io("base.qcow2", &["write -P 1 0 4M"]);
    let backing = ["-b", "base.qcow2", "-F", "qcow2"];
    let create = ["create", "-q", "-f", "qcow2", "-o", options];
    directory.qemu(&[&create[..], &backing, &["old.qcow2", "4M"]].concat());
    directory.qemu_io("old.qcow2", &["write -P 2 0 1M", "write -z 64k 128k"]);
    if !options.contains("refcount_bits") {
        directory.qemu(&["snapshot", "-c", "s", "old.qcow2"]);
        directory.qemu_io("old.qcow2", &["write -P 3 512k 1M", "write -z 2M 64k"]);
    }
    directory
}

/// What a program makes of it: exit code, what it says, and what the image says of itself.
fn outcome(directory: &Directory, program: &str, options: &str) -> (Option<i32>, String, String) {
    std::fs::copy(directory.path("old.qcow2"), directory.path("a.qcow2")).unwrap();
    let output = directory.run(program, &["amend", "-f", "qcow2", "-o", options, "a.qcow2"]);
    let errors = text(&output.stderr).replace("strata-img", "qemu-img");
    // qemu-img 7.2 leaves COPIED flags at zero clusters that a snapshot has, too.
    if program == "strata-img" {
        directory.qemu(&["check", "-f", "qcow2", "a.qcow2"]);
        if !options.contains("size=") {
            directory.qemu(&["compare", "-f", "qcow2", "old.qcow2", "a.qcow2"]);
        }
    }
    let info = directory.qemu(&["info", "-f", "qcow2", "a.qcow2"]);
    let is_compared = |line: &&str| !line.starts_with("disk size");
    let info = info
        .lines()
        .filter(is_compared)
        .collect::<Vec<_>>()
        .join("\n");
    (output.status.code(), errors, info)
}

#[test]
fn the_same_becomes_of_an_image() {
    let refused = [
        "refcount_bits=1",
        "backing_file=other.qcow2,backing_fmt=qcow2",
        "compat=0.42",
        "foo=bar",
        "cluster_size=1k",
        "encryption=on",
        "data_file=x",
        "data_file_raw=on",
        "refcount_bits=7",
    ];
    let done = [
        "compat=1.1",
        "compat=0.10",
        "compat=0.10,refcount_bits=16,lazy_refcounts=off",
        "refcount_bits=64",
        "lazy_refcounts=on",
        "lazy_refcounts=off",
        "compat=1.1,lazy_refcounts=on,refcount_bits=32,size=8M",
        "backing_file=base.qcow2,backing_fmt=qcow2",
    ];
    let images = [
        ("compat=1.1", [&done[..], &refused].concat()),
        ("compat=0.10", done.to_vec()),
        ("lazy_refcounts=on,refcount_bits=8", done.to_vec()),
    ];
    for (image, changes) in images {
        let directory = prepared(image);
        for options in changes {
            let theirs = outcome(&directory, "qemu-img", options);
            let ours = outcome(&directory, "strata-img", options);
            assert_eq!(theirs, ours, "{image} {options}");
        }
    }
}

#[test]
fn the_data_file_gets_another_name() {
    let directory = Directory::new();
    let create = ["create", "-q", "-f", "qcow2", "-o"];
    let made = ["data_file=d.raw,data_file_raw=on", "a.qcow2", "1M"];
    directory.qemu(&[&create[..], &made].concat());
    directory.qemu_io("a.qcow2", &["write -P 5 0 1M"]);
    let amend = |options: &str, more: &[&str]| {
        let args = [&["amend", "-o", options][..], more].concat();
        directory.ok("strata-img", &args);
    };
    let plain = ["-f", "qcow2", "a.qcow2"];
    std::fs::rename(directory.path("d.raw"), directory.path("e.raw")).unwrap();
    let listed = [
        "--image-opts",
        "driver=qcow2,file.filename=a.qcow2,data-file.filename=e.raw",
    ];
    amend("data_file=e.raw", &listed);
    directory.qemu_io("a.qcow2", &["read -P 5 0 1M"]);
    amend("data_file_raw=off", &plain);
    let info = directory.qemu(&["info", "a.qcow2"]);
    assert!(
        info.contains("data file: e.raw\n    data file raw: false"),
        "{info}"
    );
    amend("data_file=", &plain);
    let info = directory.ok("strata-img", &[&["info"], &listed[..]].concat());
    assert!(!info.contains("data file: "), "{info}");
    assert!(info.contains("data file raw: false"), "{info}");
    let output = directory.run("strata-img", &["check", "a.qcow2"]);
    let error = text(&output.stderr);
    assert!(error.contains("does not say in which"), "{error}");
    directory.ok("strata-img", &[&["check"], &listed[..]].concat());
}

#[test]
fn bitmaps_are_not_lost_to_version_2() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "qcow2", "a.qcow2", "1M"]);
    directory.qemu(&["bitmap", "--add", "-f", "qcow2", "a.qcow2", "b"]);
    let amend = ["amend", "-f", "qcow2", "-o", "compat=0.10", "a.qcow2"];
    let output = directory.run("strata-img", &amend);
    let error = text(&output.stderr);
    assert!(error.contains("remove them first"), "{error}");
    assert!(directory.qemu(&["info", "a.qcow2"]).contains("name: b"));
}

#[test]
fn wrong_usage() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "raw", "a.raw", "1M"]);
    directory.qemu(&["create", "-q", "-f", "qcow2", "a.qcow2", "1M"]);
    let cases: [&[&str]; 7] = [
        &["-f", "qcow2", "a.qcow2"],
        &["-f", "raw", "-o", "size=2M", "a.raw"],
        &["-f", "raw", "-o", "help"],
        &["-f", "qcow2", "-o", "lazy_refcounts=on"],
        &["-f", "qcow2", "-o", ",help", "a.qcow2"],
        &["-f", "qcow2", "-o", "size=2M,", "-o", "help", "a.qcow2"],
        &["-f", "qcow2", "-o", "lazy_refcounts=perhaps", "a.qcow2"],
    ];
    for case in cases {
        let args = [&["amend"], case].concat();
        let first = |program| {
            let output = directory.run(program, &args);
            let error = text(&output.stderr).replace("strata-img", "qemu-img");
            let line = error.lines().next().unwrap_or_default().to_owned();
            (output.status.code(), line)
        };
        assert_eq!(first("qemu-img"), first("strata-img"), "{args:?}");
    }
    let help = directory.ok("strata-img", &["amend", "-o", "help", "-f", "qcow2"]);
    assert!(
        help.starts_with("Amend options for 'qcow2':\n  backing_file=<str>"),
        "{help}"
    );
    assert!(!help.contains("cluster_size"), "{help}");
}
