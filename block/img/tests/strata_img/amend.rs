//! `amend`, beside `qemu-img`.

use crate::{Folder, text};

/// A chain whose top has options, zero clusters, and a snapshot where refcounts are not said.
fn prepared(options: &str) -> Folder {
    let folder = Folder::new();
    folder.qemu(&["create", "-q", "-f", "qcow2", "base.qcow2", "4M"]);
    folder.qemu_io("base.qcow2", &["write -P 1 0 4M"]);
    let backing = ["-b", "base.qcow2", "-F", "qcow2"];
    let create = ["create", "-q", "-f", "qcow2", "-o", options];
    folder.qemu(&[&create[..], &backing, &["old.qcow2", "4M"]].concat());
    folder.qemu_io("old.qcow2", &["write -P 2 0 1M", "write -z 64k 128k"]);
    if !options.contains("refcount_bits") {
        folder.qemu(&["snapshot", "-c", "s", "old.qcow2"]);
        folder.qemu_io("old.qcow2", &["write -P 3 512k 1M", "write -z 2M 64k"]);
    }
    folder
}

/// What a program makes of it: exit code, what it says, and what the image says of itself.
fn outcome(folder: &Folder, program: &str, options: &str) -> (Option<i32>, String, String) {
    std::fs::copy(folder.path("old.qcow2"), folder.path("a.qcow2")).unwrap();
    let output = folder.run(program, &["amend", "-f", "qcow2", "-o", options, "a.qcow2"]);
    let errors = text(&output.stderr).replace("strata-img", "qemu-img");
    // qemu-img 7.2 leaves COPIED flags at zero clusters that a snapshot has, too.
    if program == "strata-img" {
        folder.qemu(&["check", "-f", "qcow2", "a.qcow2"]);
        if !options.contains("size=") {
            folder.qemu(&["compare", "-f", "qcow2", "old.qcow2", "a.qcow2"]);
        }
    }
    let info = folder.qemu(&["info", "-f", "qcow2", "a.qcow2"]);
    let is_told = |line: &&str| !line.starts_with("disk size");
    let info = info.lines().filter(is_told).collect::<Vec<_>>().join("\n");
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
        let folder = prepared(image);
        for options in changes {
            let theirs = outcome(&folder, "qemu-img", options);
            let ours = outcome(&folder, "strata-img", options);
            assert_eq!(theirs, ours, "{image} {options}");
        }
    }
}

#[test]
fn the_data_file_gets_another_name() {
    let folder = Folder::new();
    let create = ["create", "-q", "-f", "qcow2", "-o"];
    let made = ["data_file=d.raw,data_file_raw=on", "a.qcow2", "1M"];
    folder.qemu(&[&create[..], &made].concat());
    folder.qemu_io("a.qcow2", &["write -P 5 0 1M"]);
    let amend = |options: &str, more: &[&str]| {
        let args = [&["amend", "-o", options][..], more].concat();
        folder.ok("strata-img", &args);
    };
    let plain = ["-f", "qcow2", "a.qcow2"];
    std::fs::rename(folder.path("d.raw"), folder.path("e.raw")).unwrap();
    let listed = [
        "--image-opts",
        "driver=qcow2,file.filename=a.qcow2,data-file.filename=e.raw",
    ];
    amend("data_file=e.raw", &listed);
    folder.qemu_io("a.qcow2", &["read -P 5 0 1M"]);
    amend("data_file_raw=off", &plain);
    let info = folder.qemu(&["info", "a.qcow2"]);
    assert!(
        info.contains("data file: e.raw\n    data file raw: false"),
        "{info}"
    );
    amend("data_file=", &plain);
    let info = folder.ok("strata-img", &[&["info"], &listed[..]].concat());
    assert!(!info.contains("data file: "), "{info}");
    assert!(info.contains("data file raw: false"), "{info}");
    let output = folder.run("strata-img", &["check", "a.qcow2"]);
    let error = text(&output.stderr);
    assert!(error.contains("does not say in which"), "{error}");
    folder.ok("strata-img", &[&["check"], &listed[..]].concat());
}

#[test]
fn bitmaps_are_not_lost_to_version_2() {
    let folder = Folder::new();
    folder.qemu(&["create", "-q", "-f", "qcow2", "a.qcow2", "1M"]);
    folder.qemu(&["bitmap", "--add", "-f", "qcow2", "a.qcow2", "b"]);
    let amend = ["amend", "-f", "qcow2", "-o", "compat=0.10", "a.qcow2"];
    let output = folder.run("strata-img", &amend);
    let error = text(&output.stderr);
    assert!(error.contains("remove them first"), "{error}");
    assert!(folder.qemu(&["info", "a.qcow2"]).contains("name: b"));
}

#[test]
fn wrong_usage() {
    let folder = Folder::new();
    folder.qemu(&["create", "-q", "-f", "raw", "a.raw", "1M"]);
    folder.qemu(&["create", "-q", "-f", "qcow2", "a.qcow2", "1M"]);
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
            let output = folder.run(program, &args);
            let error = text(&output.stderr).replace("strata-img", "qemu-img");
            let line = error.lines().next().unwrap_or_default().to_owned();
            (output.status.code(), line)
        };
        assert_eq!(first("qemu-img"), first("strata-img"), "{args:?}");
    }
    let help = folder.ok("strata-img", &["amend", "-o", "help", "-f", "qcow2"]);
    assert!(
        help.starts_with("Amend options for 'qcow2':\n  backing_file=<str>"),
        "{help}"
    );
    assert!(!help.contains("cluster_size"), "{help}");
}
