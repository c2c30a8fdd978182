//! Bad input: one clear line, the right exit code, and nothing changed.

use crate::{Directory, read, text};

/// Runs `strata-img` and gives its one line on standard error.
fn fails(directory: &Directory, args: &[&str], code: i32) -> String {
    let output = directory.run("strata-img", args);
    let line = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {line}");
    assert_eq!(line.lines().count(), 1, "{args:?}: {line}");
    assert!(line.starts_with("strata-img: "), "{line}");
    assert!(!line.contains("os error"), "{line}");
    line
}

#[test]
fn images_that_cannot_be_read() {
    let directory = Directory::new();
    directory.qemu(&["create", "-f", "qcow2", "a.qcow2", "1M"]);
    let cases: [(usize, &[u8], &str); 8] = [
        (0, b"NOPE", "not a qcow2 image"),
        (4, &[0, 0, 0, 9], "version 9"),
        (20, &[0, 0, 0, 30], "cluster size"),
        (32, &[0, 0, 0, 2], "encrypted"),
        (40, &[0xff, 0, 0, 0, 0, 0, 0, 0], "L1 table"),
        (36, &[0xff; 4], "L1 table"),
        (48, &[0, 0, 0, 0, 0, 0, 2, 0], "refcount table"),
        (
            72,
            &[0x40, 0, 0, 0, 0, 0, 0, 0],
            "Unknown incompatible feature: 4000000000000000",
        ),
    ];
    for (offset, bytes, expected) in cases {
        std::fs::copy(directory.path("a.qcow2"), directory.path("bad.qcow2")).unwrap();
        directory.poke("bad.qcow2", offset, bytes);
        let before = read(&directory.path("bad.qcow2"));
        // Of an encrypted image everything but its data can be shown.
        let shown = expected == "encrypted";
        for command in &["info", "check", "map"][usize::from(shown)..] {
            let line = fails(&directory, &[command, "-f", "qcow2", "bad.qcow2"], 1);
            assert!(
                line.contains(expected) && line.contains("bad.qcow2"),
                "{line}"
            );
        }
        assert!(before == read(&directory.path("bad.qcow2")));
    }
}

#[test]
fn files_that_are_not_there_or_not_files() {
    let directory = Directory::new();
    let line = fails(&directory, &["info", "missing"], 1);
    assert!(
        line.contains("missing") && line.contains("No such file"),
        "{line}"
    );
    let line = fails(&directory, &["info", "."], 1);
    assert!(line.contains("directory"), "{line}");
    directory.ok("mkfifo", &["pipe"]);
    for args in [&["info", "pipe"][..], &["create", "-q", "pipe", "1M"]] {
        let line = fails(&directory, args, 1);
        assert!(line.contains("not a regular file"), "{line}");
    }
    std::fs::write(directory.path("empty"), b"").unwrap();
    fails(&directory, &["map", "-f", "qcow2", "empty"], 1);
    fails(&directory, &["compare", "missing", "missing"], 2);
}

#[test]
fn images_that_cannot_be_made() {
    let directory = Directory::new();
    directory.qemu(&["create", "-f", "qcow2", "a.qcow2", "1M"]);
    let before = read(&directory.path("a.qcow2"));
    let extended = "Extended L2 entries are only supported with ";
    let small = format!("{extended}cluster sizes of at least 16384 bytes");
    let old = format!("{extended}compatibility level 1.1 and above");
    let cases: [(&[&str], &str); 13] = [
        (
            &[
                "-f",
                "qcow2",
                "-o",
                "extended_l2=on,cluster_size=8k",
                "b",
                "1M",
            ],
            &small,
        ),
        (
            &["-f", "qcow2", "-o", "extended_l2=on,compat=0.10", "b", "1M"],
            &old,
        ),
        (
            &["-f", "qcow2", "-o", "cluster_size=3", "a.qcow2", "1M"],
            "power of two",
        ),
        (&["-f", "qcow2", "-F", "raw", "a.qcow2", "1M"], "Backing"),
        (&["-f", "qcow2", "b"], "size"),
        (&["-f", "qcow2", "b", "1Q"], "Invalid size"),
        (&["-f", "qcow2", "no/b", "1M"], "No such file"),
        (
            &["-f", "qcow2", "-o", "cluster_size=1000", "b", "1M"],
            "power of two",
        ),
        (
            &["-f", "qcow2", "-o", "cluster_size=512", "b", "1T"],
            "too large",
        ),
        (&["-f", "qcow2", "-o", "color=red", "b", "1M"], "color"),
        (&["-f", "qcow2", "-b", "a.qcow2", "b"], "backing format"),
        (
            &["-f", "qcow2", "-b", "missing", "-F", "raw", "b"],
            "missing",
        ),
        (&["-b", "a.qcow2", "-F", "qcow2", "b"], "not supported"),
    ];
    for (case, expected) in cases {
        let args = [&["create", "-q"], case].concat();
        let line = fails(&directory, &args, 1);
        assert!(line.contains(expected), "{case:?}: {line}");
        assert!(!directory.path("b").exists(), "{case:?}");
    }
    assert!(before == read(&directory.path("a.qcow2")));
}

#[test]
fn wrong_usage_is_one_line_and_exit_code_1() {
    let directory = Directory::new();
    for (args, expected) in [
        (&[][..], "a command is needed: create, info, "),
        (&["delete", "a"], "no command 'delete', only create, info, "),
        (&["info"], "<FILE> (see 'strata-img info --help')"),
        (
            &["info", "--output=xml", "a"],
            "'xml' for '--output <OUTPUT>'",
        ),
        (
            &["info", "-f", "vmdk", "a"],
            "'vmdk' (known: raw, qcow2, qed)",
        ),
        (&["info", "a", "b"], "'b'"),
        (&["map", "-x", "a"], "'-x'"),
        (&["map", "-s", "x", "a"], "Invalid size 'x'"),
        (&["check", "-r", "some", "a"], "'some'"),
        (
            &["snapshot", "-l", "-c", "a", "a"],
            "'-l' cannot be used with '-c",
        ),
        (&["compare", "a"], "<SECOND>"),
        (&["compare", "-x", "a", "b"], "'-x'"),
    ] {
        let line = fails(&directory, args, 1);
        assert!(line.contains(expected), "{line}");
        let theirs = directory.run("qemu-img", args);
        assert_eq!(theirs.status.code(), Some(1), "{args:?}");
    }
    // 1 would mean that the images differ.
    for args in [
        &["compare", "-f", "vmdk", "a", "b"][..],
        &["compare", "-T", "x", "a", "b"],
    ] {
        fails(&directory, args, 2);
        assert_eq!(directory.run("qemu-img", args).status.code(), Some(2));
    }
    for args in [&["--help"][..], &["--version"], &["info", "-h"]] {
        directory.ok("strata-img", args);
    }
}

#[test]
fn the_last_of_an_option_counts() {
    let directory = Directory::new();
    let args = ["create", "-q", "-q", "-f", "raw", "-f", "qcow2", "a", "1M"];
    directory.ok("strata-img", &args);
    directory.qemu(&["check", "-f", "qcow2", "a"]);
}

#[test]
fn what_is_written_needs_its_format() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "base", "1M"]);
    let create = ["create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw"];
    directory.qemu(&[&create[..], &["a"]].concat());
    let before = read(&directory.path("a"));
    for args in [
        &["commit", "a"][..],
        &["resize", "a", "2M"],
        &["rebase", "-b", "", "a"],
        &["check", "-r", "all", "a"],
        &["bench", "-w", "a"],
        &["bitmap", "--add", "a", "b"],
    ] {
        let line = fails(&directory, args, 1);
        assert!(line.contains("add -f qcow2"), "{line}");
    }
    assert!(before == read(&directory.path("a")));
    let line = fails(&directory, &["resize", "base", "2M"], 1);
    assert!(line.contains("add -f raw"), "{line}");
}

#[test]
fn formats_of_others_are_not_taken_for_raw_disks() {
    let directory = Directory::new();
    for (format, options, name) in [
        ("vmdk", "subformat=monolithicSparse", "VMDK"),
        ("vmdk", "subformat=monolithicFlat", "VMDK"),
        ("vpc", "subformat=dynamic", "VHD"),
        ("vhdx", "subformat=dynamic", "VHDX"),
        ("vdi", "static=off", "VDI"),
        ("parallels", "cluster_size=1M", "Parallels"),
    ] {
        directory.qemu(&["create", "-q", "-f", format, "-o", options, "a", "8M"]);
        for args in [
            &["info", "a"][..],
            &["convert", "-O", "qcow2", "a", "b"],
            &["map", "a"],
        ] {
            let line = fails(&directory, args, 1);
            assert!(line.contains(&format!("a {name} image")), "{line}");
        }
        assert!(!directory.path("b").exists());
        fails(&directory, &["compare", "a", "a"], 2);
        directory.ok("strata-img", &["info", "-f", "raw", "a"]);
    }
}

#[test]
fn names_that_mean_something_to_qemu_only() {
    let directory = Directory::new();
    for name in ["ssh://host/a", "https://host/a"] {
        let line = fails(&directory, &["info", name], 1);
        assert!(line.contains("nbd://"), "{line}");
    }
    let line = fails(&directory, &["info", "json:{'driver': 'ssh'}"], 1);
    assert!(line.contains("Unknown driver 'ssh'"), "{line}");
    std::fs::write(directory.path("ssh:a"), [1; 512]).unwrap();
    directory.ok("strata-img", &["info", "ssh:a"]);
}

/// The host lets no file grow past 64 KiB, as a full disk would.
#[test]
fn a_copy_that_finds_no_room_removes_its_file() {
    let directory = Directory::new();
    std::fs::write(directory.path("disk"), vec![7; 1 << 20]).unwrap();
    for (format, options) in [("raw", ""), ("qcow2", ""), ("qcow2", "-n")] {
        if options == "-n" {
            directory.qemu(&["create", "-q", "-f", "qcow2", "copy", "1M"]);
        }
        let copy = format!(
            "{} convert {options} -f raw -O {format} disk copy",
            env!("CARGO_BIN_EXE_strata-img")
        );
        let limited = format!("ulimit -f 64; exec {copy}");
        let output = directory.run("bash", &["-c", &limited]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let error = text(&output.stderr);
        assert!(error.contains("error while"), "{error}");
        let why = "the host lets the file grow no further (ulimit -f)";
        assert!(error.trim_end().ends_with(why), "{error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        // What was there before is the user's.
        assert_eq!(directory.path("copy").exists(), options == "-n");
    }
}
