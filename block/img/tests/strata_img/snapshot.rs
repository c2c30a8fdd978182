//! `snapshot`, and what `info` says of snapshots.

use crate::{Directory, text};

/// Both tools with the same arguments on images of the same content.
fn same(directory: &Directory, args: &[&str], file: &[&str]) {
    let run = |program: &str, name: &str| {
        let file: Vec<&str> = file
            .iter()
            .map(|&f| if f == "NAME" { name } else { f })
            .collect();
        directory.run(program, &[args, &file].concat())
    };
    let (theirs, ours) = (run("qemu-img", "theirs"), run("strata-img", "ours"));
    assert_eq!(
        theirs.status.code(),
        ours.status.code(),
        "{args:?} {ours:?}"
    );
    // The dates differ by what the tests take.
    let fields = |bytes: &[u8]| {
        let line = |line: &str| {
            let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            words.retain(|word| !word.contains("2026-") && word.matches(':').count() != 2);
            words
        };
        text(bytes).lines().map(line).collect::<Vec<_>>()
    };
    assert_eq!(fields(&theirs.stdout), fields(&ours.stdout), "{args:?}");
    let words = |bytes: &[u8]| text(bytes).replace("strata-img", "qemu-img");
    assert_eq!(words(&theirs.stderr), words(&ours.stderr), "{args:?}");
}

#[test]
fn says_and_does_what_qemu_img_does() {
    let directory = Directory::new();
    for name in ["ours", "theirs"] {
        directory.qemu(&["create", "-q", "-f", "qcow2", name, "1M"]);
        directory.qemu_io(name, &["write -P 1 0 512k"]);
    }
    let steps: [&[&str]; 11] = [
        &["-l"],
        &["-c", "one"],
        &["-c", "one"],
        &["-c", "a name with spaces"],
        &["-l"],
        &["-a", "nope"],
        &["-d", "nope"],
        &["-d", "2"],
        &["-a", "2"],
        &["-d", "one"],
        &["-q", "-l"],
    ];
    for step in steps {
        same(&directory, &[&["snapshot"], step].concat(), &["NAME"]);
        directory.qemu_io("ours", &["write -P 3 100k 200k"]);
        directory.qemu_io("theirs", &["write -P 3 100k 200k"]);
    }
    directory.qemu(&["check", "-f", "qcow2", "ours"]);
    let out = directory.qemu(&["compare", "-f", "qcow2", "-F", "qcow2", "ours", "theirs"]);
    assert!(out.contains("identical"), "{out}");
    // One image, and what both say of it.
    for args in [&["snapshot", "-l", "ours"][..], &["info", "ours"]] {
        let (theirs, ours) = (
            directory.run("qemu-img", args),
            directory.run("strata-img", args),
        );
        assert_eq!(text(&theirs.stdout), text(&ours.stdout), "{args:?}");
    }
    let args = ["info", "--output=json", "ours"];
    let json = |program: &str| {
        let out = directory.ok(program, &args);
        serde_json::from_str::<serde_json::Value>(&out).unwrap()
    };
    assert_eq!(json("qemu-img"), json("strata-img"));
}

#[test]
fn only_qcow2_has_snapshots() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "raw", "disk.raw", "1M"]);
    let output = directory.run("strata-img", &["snapshot", "-c", "x", "disk.raw"]);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains("is not a qcow2 image"), "{error}");
    let output = directory.run(
        "strata-img",
        &["snapshot", "-c", "x", "-d", "y", "disk.raw"],
    );
    assert_ne!(output.status.code(), Some(0));
}

/// A damage that is in the way is found before anything is changed.
#[test]
fn a_snapshot_that_cannot_be_changed_leaves_the_image_as_usable_as_it_was() {
    for options in ["compat=1.1", "compat=0.10", "lazy_refcounts=on"] {
        let directory = Directory::new();
        directory.qemu(&["create", "-q", "-f", "qcow2", "-o", options, "a", "1M"]);
        directory.qemu_io("a", &["write 0 192k"]);
        directory.qemu(&["snapshot", "-c", "old", "a"]);
        directory.qemu_io("a", &["write 0 64k"]);
        let l1 = directory.peek("a", 40) as usize;
        let l2 = (directory.peek("a", l1) & 0x00ff_ffff_ffff_fe00) as usize;
        // An offset that is not aligned.
        directory.poke("a", l2 + 8, &(1u64 << 63 | 0x5_2a00).to_be_bytes());
        for change in [["-c", "new"], ["-a", "old"], ["-d", "old"]] {
            let output =
                directory.run("strata-img", &[&["snapshot"], &change[..], &["a"]].concat());
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains("0x52a00"), "{said}");
            let info = directory.ok("strata-img", &["info", "a"]);
            assert!(!info.contains("cleanly"), "{options}: {info}");
            let writes = [
                "bench", "-q", "-w", "-c", "1", "-s", "512", "-f", "qcow2", "a",
            ];
            directory.ok("strata-img", &writes);
        }
    }
}

/// QEMU gives the L1 table of such a snapshot no place.
#[test]
fn snapshots_of_a_disk_without_bytes() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "qcow2", "a", "0"]);
    directory.qemu(&["snapshot", "-c", "theirs", "a"]);
    directory.ok("strata-img", &["snapshot", "-c", "ours", "a"]);
    directory.ok("strata-img", &["check", "-q", "a"]);
    directory.ok("strata-img", &["resize", "-q", "-f", "qcow2", "a", "1M"]);
    directory.qemu_io("a", &["write -P 1 0 1M"]);
    for name in ["theirs", "ours"] {
        directory.ok("strata-img", &["snapshot", "-a", name, "a"]);
        directory.qemu(&["check", "-q", "a"]);
        assert!(
            directory
                .ok("strata-img", &["info", "a"])
                .contains("virtual size: 0 B")
        );
        directory.ok("strata-img", &["snapshot", "-d", name, "a"]);
        directory.qemu(&["check", "-q", "a"]);
    }
}
