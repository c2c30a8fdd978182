//! The committed corpus of the fuzzing targets, through the same functions, on a stable compiler:
//! what a fuzzer has found once stays fixed.

#![allow(clippy::unwrap_used)]

#[path = "../../../fuzz/src/lib.rs"]
mod targets;

use std::path::Path;

/// Runs a target on each of its committed inputs.
fn replay(name: &str) {
    let (_, target) = targets::TARGETS
        .into_iter()
        .find(|(known, _)| *known == name)
        .expect("a target of this name");
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(name);
    let mut count = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        // The others are what a fuzzer has left here.
        if path
            .extension()
            .is_some_and(|extension| extension == "seed")
        {
            eprintln!("{}", path.display());
            target(&std::fs::read(&path).unwrap());
            count += 1;
        }
    }
    assert!(count > 0, "no corpus in {}", directory.display());
}

#[test]
fn headers() {
    replay("headers");
}

#[test]
fn tables() {
    replay("tables");
}

#[test]
fn images() {
    replay("images");
}

#[test]
fn requests() {
    replay("requests");
}

#[test]
fn operations() {
    replay("operations");
}

#[test]
fn nbd_server() {
    replay("nbd_server");
}

#[test]
fn nbd_client() {
    replay("nbd_client");
}
