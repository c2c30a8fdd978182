//! Images that somebody writes to: refused like `qemu-img` does, unless `-U` is given.

use strata_exec::Executor;
use strata_storage::{FileOptions, FileStorage};

use crate::{Directory, read, text};

#[test]
fn a_running_disk_is_refused_without_force_share() {
    let directory = Directory::new();
    directory.qemu(&["create", "-f", "qcow2", "a", "1M"]);
    let exec = Executor::new().unwrap();
    let writer = FileStorage::open(&exec, &directory.path("a"), FileOptions::default()).unwrap();
    let same = ["a", "a"];
    for (args, code) in [
        (&["info", "-f", "qcow2"][..], 1),
        (&["info", "-f", "qcow2", "--backing-chain"], 1),
        (&["check", "-f", "qcow2"], 1),
        (&["map", "-f", "qcow2"], 1),
        (&["compare", "-f", "qcow2", "-F", "qcow2"], 2),
    ] {
        let files = if code == 2 { &same[..] } else { &same[..1] };
        let run = |program: &str, more: &[&str]| {
            let args = [args, more, files].concat();
            let output = directory.run(program, &args);
            (output.status.code(), text(&output.stderr))
        };
        for program in ["qemu-img", "strata-img"] {
            let (status, said) = run(program, &[]);
            assert_eq!(status, Some(code), "{program} {args:?}: {said}");
            assert!(
                said.contains("Failed to get shared \"write\" lock")
                    && said.contains("Is another process using the image [a]?"),
                "{said}"
            );
            assert_eq!(run(program, &["-U"]).0, Some(0), "{program} {args:?}");
        }
        let (_, said) = run("strata-img", &[]);
        // Which process it names depends on what the other tests fork at this moment.
        assert!(said.contains(" has it open."), "{said}");
    }
    let before = read(&directory.path("a"));
    std::fs::write(directory.path("b"), [1; 512]).unwrap();
    for args in [
        &["create", "-f", "qcow2", "a", "1M"][..],
        &["create", "a", "1M"],
        &["convert", "-f", "raw", "b", "a"],
    ] {
        let output = directory.run("strata-img", args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let said = text(&output.stderr);
        assert!(said.contains("Failed to get \"write\" lock"), "{said}");
    }
    assert!(before == read(&directory.path("a")));
    drop(writer);
    directory.ok("strata-img", &["info", "-f", "qcow2", "a"]);
}
