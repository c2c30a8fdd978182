//! `compare`: verdicts and exit codes.

use crate::{Directory, text};

fn assert_same(directory: &Directory, args: &[&str]) {
    let (theirs, ours) = (
        directory.run("qemu-img", args),
        directory.run("strata-img", args),
    );
    assert_eq!(
        theirs.status.code(),
        ours.status.code(),
        "{args:?} {ours:?}"
    );
    assert_eq!(text(&theirs.stdout), text(&ours.stdout), "{args:?}");
}

#[test]
fn verdicts_are_qemus() {
    let directory = Directory::new();
    directory.qemu(&["create", "-f", "qcow2", "a.qcow2", "4M"]);
    directory.qemu_io("a.qcow2", &["write -P 1 1M 300k"]);
    directory.qemu(&["convert", "-O", "raw", "a.qcow2", "same.raw"]);
    directory.qemu(&[
        "create",
        "-f",
        "qcow2",
        "-b",
        "a.qcow2",
        "-F",
        "qcow2",
        "zero.qcow2",
    ]);
    directory.qemu_io("zero.qcow2", &["write -z 1100k 64k"]);
    directory.qemu(&[
        "create",
        "-f",
        "qcow2",
        "-b",
        "a.qcow2",
        "-F",
        "qcow2",
        "byte.qcow2",
    ]);
    directory.qemu_io("byte.qcow2", &["write -P 2 3000k 512"]);
    directory.qemu(&[
        "create",
        "-f",
        "qcow2",
        "-b",
        "a.qcow2",
        "-F",
        "qcow2",
        "long.qcow2",
        "5M",
    ]);
    directory.qemu(&[
        "create",
        "-f",
        "qcow2",
        "-b",
        "a.qcow2",
        "-F",
        "qcow2",
        "tail.qcow2",
        "5M",
    ]);
    directory.qemu_io("tail.qcow2", &["write -P 2 4500k 4k"]);
    let names = [
        "a.qcow2",
        "same.raw",
        "zero.qcow2",
        "byte.qcow2",
        "long.qcow2",
        "tail.qcow2",
    ];
    for first in names {
        for second in names {
            assert_same(&directory, &["compare", first, second]);
            assert_same(&directory, &["compare", "-q", first, second]);
        }
    }
    assert_same(&directory, &["compare", "-s", "a.qcow2", "a.qcow2"]);
    assert_same(&directory, &["compare", "-s", "a.qcow2", "long.qcow2"]);
    assert_same(
        &directory,
        &["compare", "-f", "qcow2", "-F", "raw", "a.qcow2", "same.raw"],
    );
    assert_same(&directory, &["compare", "a.qcow2", "missing"]);
}

#[test]
fn progress_is_shown_as_qemu_shows_it() {
    let directory = Directory::new();
    directory.qemu(&["create", "a.raw", "20M"]);
    directory.qemu(&["create", "longer.raw", "30M"]);
    directory.ok("qemu-io", &["-f", "raw", "-c", "write -P 1 0 10M", "a.raw"]);
    directory.qemu(&["convert", "-O", "qcow2", "a.raw", "same.qcow2"]);
    for second in ["same.qcow2", "longer.raw"] {
        assert_same(&directory, &["compare", "-p", "-f", "raw", "a.raw", second]);
    }
    assert_same(&directory, &["compare", "-p", "-q", "a.raw", "same.qcow2"]);
}
