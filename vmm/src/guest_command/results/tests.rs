use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

fn head(mode: u32, name: &str) -> Vec<u8> {
    [&mode.to_le_bytes(), name.as_bytes()].concat()
}

#[test]
fn files_come_back_with_their_content_and_mode() {
    let top = tempfile::tempdir().unwrap();
    let directory = top.path().join("new/out");
    let mut results = Results::create(&directory).unwrap();
    results.directory(b"logs").unwrap();
    results.directory(b"logs").unwrap();
    results.file(&head(0o100_755, "logs/run.sh")).unwrap();
    results.data(b"#!/bin").unwrap();
    results.data(b"/sh\n").unwrap();
    results.file(&head(0o100_644, "empty")).unwrap();
    let script = directory.join("logs/run.sh");
    assert_eq!(fs::read(&script).unwrap(), b"#!/bin/sh\n");
    assert_eq!(
        fs::metadata(&script).unwrap().permissions().mode() & 0o700,
        0o700
    );
    assert_eq!(fs::read(directory.join("empty")).unwrap(), b"");
    // Once more: the new ones take their place.
    results.file(&head(0o100_644, "logs/run.sh")).unwrap();
    assert_eq!(fs::read(&script).unwrap(), b"");
}

#[test]
fn no_name_leads_out() {
    let top = tempfile::tempdir().unwrap();
    let directory = top.path().join("out");
    let mut results = Results::create(&directory).unwrap();
    fs::create_dir(top.path().join("elsewhere")).unwrap();
    fs::write(top.path().join("precious"), "x").unwrap();
    symlink("../elsewhere", directory.join("link")).unwrap();
    symlink("../precious", directory.join("file")).unwrap();
    for name in [
        "",
        "/etc/x",
        "../x",
        "a/../../x",
        "link/x",
        "missing/x",
        ".",
    ] {
        assert!(results.file(&head(0o644, name)).is_err(), "{name}");
    }
    for name in ["", "/x", "..", "link", "link/x"] {
        assert!(results.directory(name.as_bytes()).is_err(), "{name}");
    }
    assert!(results.file(b"\0\0").is_err());
    // A link is replaced, not followed.
    results.file(&head(0o644, "file")).unwrap();
    results.data(b"new").unwrap();
    assert_eq!(fs::read(top.path().join("precious")).unwrap(), b"x");
    assert_eq!(
        fs::read_dir(top.path().join("elsewhere")).unwrap().count(),
        0
    );
}
