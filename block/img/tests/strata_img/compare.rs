//! `compare`: verdicts and exit codes.

use crate::{Folder, text};

fn assert_same(folder: &Folder, args: &[&str]) {
    let (theirs, ours) = (folder.run("qemu-img", args), folder.run("strata-img", args));
    assert_eq!(
        theirs.status.code(),
        ours.status.code(),
        "{args:?} {ours:?}"
    );
    assert_eq!(text(&theirs.stdout), text(&ours.stdout), "{args:?}");
}

#[test]
fn verdicts_are_qemus() {
    let folder = Folder::new();
    folder.qemu(&["create", "-f", "qcow2", "a.qcow2", "4M"]);
    folder.qemu_io("a.qcow2", &["write -P 1 1M 300k"]);
    folder.qemu(&["convert", "-O", "raw", "a.qcow2", "same.raw"]);
    folder.qemu(&[
        "create",
        "-f",
        "qcow2",
        "-b",
        "a.qcow2",
        "-F",
        "qcow2",
        "zero.qcow2",
    ]);
    folder.qemu_io("zero.qcow2", &["write -z 1100k 64k"]);
    folder.qemu(&[
        "create",
        "-f",
        "qcow2",
        "-b",
        "a.qcow2",
        "-F",
        "qcow2",
        "byte.qcow2",
    ]);
    folder.qemu_io("byte.qcow2", &["write -P 2 3000k 512"]);
    folder.qemu(&[
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
    folder.qemu(&[
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
    folder.qemu_io("tail.qcow2", &["write -P 2 4500k 4k"]);
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
            assert_same(&folder, &["compare", first, second]);
            assert_same(&folder, &["compare", "-q", first, second]);
        }
    }
    assert_same(&folder, &["compare", "-s", "a.qcow2", "a.qcow2"]);
    assert_same(&folder, &["compare", "-s", "a.qcow2", "long.qcow2"]);
    assert_same(
        &folder,
        &["compare", "-f", "qcow2", "-F", "raw", "a.qcow2", "same.raw"],
    );
    assert_same(&folder, &["compare", "a.qcow2", "missing"]);
}

#[test]
fn progress_is_shown_as_qemu_shows_it() {
    let folder = Folder::new();
    folder.qemu(&["create", "a.raw", "20M"]);
    folder.qemu(&["create", "longer.raw", "30M"]);
    folder.ok("qemu-io", &["-f", "raw", "-c", "write -P 1 0 10M", "a.raw"]);
    folder.qemu(&["convert", "-O", "qcow2", "a.raw", "same.qcow2"]);
    for second in ["same.qcow2", "longer.raw"] {
        assert_same(&folder, &["compare", "-p", "-f", "raw", "a.raw", second]);
    }
    assert_same(&folder, &["compare", "-p", "-q", "a.raw", "same.qcow2"]);
}
