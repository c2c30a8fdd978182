//! External data files: what `qemu-img` makes we show as it does, and the other way round.

use serde_json::Value;

use crate::{Directory, read, same_output::assert_same, text};

/// Images of `qemu-img`'s with external data files: one over a backing file, one raw.
fn images() -> (Directory, [&'static str; 3]) {
    let directory = Directory::new();
    directory.qemu(&["create", "-f", "raw", "base.raw", "3M"]);
    directory.ok(
        "qemu-io",
        &["-f", "raw", "-c", "write -P 9 1M 1M", "base.raw"],
    );
    let create = |options: &str, more: &[&str]| {
        directory.qemu(&[&["create", "-f", "qcow2", "-o", options], more].concat());
    };
    create("data_file=a.raw,cluster_size=4k", &["a.qcow2", "4M"]);
    let backing = ["-b", "base.raw", "-F", "raw", "b.qcow2"];
    create("data_file=b.raw", &backing);
    create("data_file=c.raw,data_file_raw=on", &["c.qcow2", "4M"]);
    for name in ["a.qcow2", "b.qcow2", "c.qcow2"] {
        let commands = [
            "write -P 1 0 100k",
            "write -P 2 1M 192k",
            "write -z 2M 64k",
            "write -z -u 1088k 64k",
            "discard 64k 64k",
        ];
        directory.qemu_io(name, &commands);
    }
    (directory, ["a.qcow2", "b.qcow2", "c.qcow2"])
}

#[test]
fn info_check_map_and_compare() {
    let (directory, names) = images();
    for name in names {
        for output in ["--output=human", "--output=json"] {
            for command in ["info", "check", "map"] {
                assert_same(&directory, &[command, output, name]);
            }
            assert_same(&directory, &["info", "--backing-chain", output, name]);
        }
        for other in names {
            assert_same(&directory, &["compare", name, other]);
        }
    }
    let fields = |program| {
        let text = directory.ok(program, &["info", "c.qcow2"]);
        text.split_once("specific").unwrap().1.to_owned()
    };
    assert_eq!(fields("strata-img"), fields("qemu-img"));
}

#[test]
fn info_needs_no_data_file_but_everything_else_does() {
    let (directory, _) = images();
    std::fs::remove_file(directory.path("a.raw")).unwrap();
    assert_same(&directory, &["info", "a.qcow2"]);
    for command in ["check", "map"] {
        let output = directory.run("strata-img", &[command, "a.qcow2"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains("'a.qcow2': its data file cannot be used") && said.contains("a.raw"),
            "{said}"
        );
    }
}

#[test]
fn damaged_entries_are_found() {
    let cases = [
        // Not where the data is on the disk; without the flag; misaligned; compressed.
        (
            0x8000_0000_0005_0000,
            "does not match that on the disk",
            false,
        ),
        (
            0x0000_0000_0001_0000,
            "OFLAG_COPIED data cluster: l2_entry=10000 refcount=1",
            true,
        ),
        (
            0x8000_0000_0001_0200,
            "offset=10200: Data cluster is not properly aligned",
            true,
        ),
        (
            0x4000_0000_0001_0200,
            "compressed cluster 1 with data file",
            true,
        ),
    ];
    for (entry, expected, same) in cases {
        let directory = Directory::new();
        let options = "data_file=x.raw";
        directory.qemu(&["create", "-f", "qcow2", "-o", options, "x.qcow2", "4M"]);
        directory.qemu_io("x.qcow2", &["write -P 1 0 256k"]);
        let l1 = directory.peek("x.qcow2", 40) as usize;
        let table = directory.peek("x.qcow2", l1) & ((1 << 56) - 1);
        directory.poke("x.qcow2", table as usize + 8, &u64::to_be_bytes(entry));
        let run = |program| directory.run(program, &["check", "x.qcow2"]);
        let (theirs, ours) = (run("qemu-img"), run("strata-img"));
        let said = text(&ours.stderr);
        assert!(said.contains(expected), "{said}");
        assert_eq!(ours.status.code(), Some(2), "{said}");
        // QEMU's check passes over an offset that its reads refuse.
        if same {
            assert_eq!(said, text(&theirs.stderr));
        }
    }
}

#[test]
fn create_makes_what_qemu_makes() {
    let cases: [&[&str]; 5] = [
        &["-o", "data_file=d.raw", "new.img", "1000000"],
        &["-o", "data_file=d.raw,data_file_raw=on", "new.img", "10M"],
        &[
            "-o",
            "data_file=d.raw,preallocation=metadata,cluster_size=512",
            "new.img",
            "1M",
        ],
        &[
            "-o",
            "data_file=d.raw,lazy_refcounts=on",
            "-b",
            "base.raw",
            "-F",
            "raw",
            "new.img",
        ],
        &[
            "-o",
            "data_file=d.raw,data_file_raw=on,cluster_size=2M,refcount_bits=1",
            "new.img",
            "3G",
        ],
    ];
    for case in cases {
        let directory = Directory::new();
        directory.qemu(&["create", "base.raw", "3M"]);
        let args = [&["create", "-f", "qcow2"], case].concat();
        let theirs = directory.qemu(&args);
        let info = || {
            let text = directory.qemu(&["info", "--output=json", "new.img"]);
            let mut info: Value = serde_json::from_str(&text).unwrap();
            info.as_object_mut().unwrap().remove("actual-size");
            info
        };
        let (their_info, their_map) =
            (info(), directory.qemu(&["map", "--output=json", "new.img"]));
        // What is there is replaced, by both programs.
        std::fs::write(directory.path("d.raw"), [1; 4096]).unwrap();
        assert_eq!(theirs, directory.ok("strata-img", &args), "{case:?}");
        assert_eq!(their_info, info(), "{case:?}");
        assert_eq!(
            their_map,
            directory.qemu(&["map", "--output=json", "new.img"])
        );
        assert_same(&directory, &["check", "new.img"]);
    }
}

#[test]
fn what_cannot_be_made() {
    let directory = Directory::new();
    directory.qemu(&["create", "base.raw", "1M"]);
    let cases: [(&[&str], &str); 4] = [
        (
            &["-o", "data_file_raw=on", "x", "1M"],
            "data-file-raw requires data-file",
        ),
        (
            &["-o", "data_file=d.raw,compat=0.10", "x", "1M"],
            "External data files are only supported with compatibility level 1.1 and above (use version=v3 or greater)",
        ),
        (
            &[
                "-o",
                "data_file=d.raw,data_file_raw=on",
                "-b",
                "base.raw",
                "-F",
                "raw",
                "x",
            ],
            "Backing file and data-file-raw cannot be used at the same time",
        ),
        (
            &["-o", "data_file=no/d.raw", "x", "1M"],
            "'no/d.raw': No such file or directory",
        ),
    ];
    for (case, expected) in cases {
        let args = [&["create", "-f", "qcow2"], case].concat();
        let said = |program| {
            let output = directory.run(program, &args);
            assert_eq!(output.status.code(), Some(1), "{program} {args:?}");
            text(&output.stderr)
        };
        assert!(said("strata-img").contains(expected), "{expected}");
        assert!(said("qemu-img").contains(expected), "{expected}");
        for name in ["x", "d.raw"] {
            assert!(!directory.path(name).exists(), "{args:?} left {name}");
        }
    }
}

/// Relative names are relative to the directory of the image, as those of backing files.
#[test]
fn names_are_relative_to_the_image() {
    let directory = Directory::new();
    std::fs::create_dir(directory.path("sub")).unwrap();
    let options = ["create", "-f", "qcow2", "-o", "data_file=d.raw"];
    directory.ok(
        "strata-img",
        &[&options[..], &["sub/x.qcow2", "1M"]].concat(),
    );
    assert!(directory.path("sub/d.raw").exists());
    directory.ok("strata-img", &["map", "sub/x.qcow2"]);
    let info = directory.ok("strata-img", &["info", "sub/x.qcow2"]);
    assert!(info.contains("data file: d.raw\n"), "{info}");
}

/// A header may not make any file of the host readable.
#[test]
fn names_that_are_refused() {
    let directory = Directory::new();
    let image = |name: &str| {
        let _ = std::fs::remove_file(directory.path("x.qcow2"));
        let _ = std::fs::remove_file(directory.path("d.raw"));
        directory.qemu(&[
            "create",
            "-f",
            "qcow2",
            "-o",
            "data_file=d.raw",
            "x.qcow2",
            "1M",
        ]);
        // The extension comes first in QEMU's headers; the name goes where the old one was.
        let len = u32::try_from(name.len()).unwrap().to_be_bytes();
        let padded = [name.as_bytes(), &[0; 8]].concat();
        let padded = &padded[..name.len().next_multiple_of(8)];
        let extension = [b"DATA", &len[..], padded, &[0; 8]].concat();
        directory.poke("x.qcow2", 112, &extension);
    };
    let cases = [
        (
            "/etc/passwd",
            "its data file '/etc/passwd' lies in a system directory; if it is meant, say backing-folders=/etc",
        ),
        ("x.qcow2", "its data file 'x.qcow2' is the image itself"),
        (
            "json:{}",
            "its data file 'json:{}' cannot be used: A block device",
        ),
        (
            "missing",
            "its data file cannot be used: could not open 'missing'",
        ),
        (".", "is a directory"),
    ];
    for (name, expected) in cases {
        image(name);
        for command in ["check", "map"] {
            let output = directory.run("strata-img", &[command, "x.qcow2"]);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{said}");
            assert!(said.contains(expected), "{said}");
        }
        let info = directory.ok("strata-img", &["info", "x.qcow2"]);
        assert!(info.contains(&format!("data file: {name}\n")), "{info}");
    }
}

/// A raw data file has as many bytes as the disk, whatever becomes of that.
#[test]
fn a_data_file_follows_the_size() {
    for (raw, grown) in [("off", "3M"), ("on", "3M"), ("on", "1100k")] {
        let directory = Directory::new();
        let options = format!("data_file=d.raw,data_file_raw={raw}");
        directory.qemu(&[
            "create", "-q", "-f", "qcow2", "-o", &options, "a.qcow2", "2M",
        ]);
        directory.qemu_io("a.qcow2", &["write -P 5 0 2M"]);
        let resize = |args: &[&str]| {
            directory.ok(
                "strata-img",
                &[&["resize", "-q", "-f", "qcow2"], args].concat(),
            );
        };
        resize(&["--shrink", "a.qcow2", "1000k"]);
        assert_eq!(read(&directory.path("d.raw")).len(), 1000 << 10);
        resize(&["a.qcow2", grown]);
        directory.qemu(&["check", "a.qcow2"]);
        let len = grown.trim_end_matches(['M', 'k']).parse::<usize>().unwrap();
        let len = len << if grown.ends_with('M') { 20 } else { 10 };
        let mut expected = vec![5; 1000 << 10];
        expected.resize(len, 0);
        std::fs::write(directory.path("expected"), &expected).unwrap();
        directory.qemu(&["compare", "-f", "raw", "-F", "qcow2", "expected", "a.qcow2"]);
        if raw == "on" {
            assert!(read(&directory.path("d.raw")) == expected, "{grown}");
        }
    }
}

/// What a raw data file holds behind the disk's end is what the disk shows once it is larger, as
/// with QEMU.
#[test]
fn a_raw_data_file_keeps_what_it_holds_when_the_disk_grows() {
    for (len, size) in [
        (1 << 20, "1M"),
        (3 << 20, "2M"),
        (3 << 20, "2500k"),
        (8 << 20, "2M"),
    ] {
        for preallocation in ["off", "metadata", "falloc", "full"] {
            let directory = Directory::new();
            for name in ["q", "s"] {
                let options = format!("data_file={name}.raw,data_file_raw=on");
                let image = format!("{name}.qcow2");
                directory.qemu(&["create", "-q", "-f", "qcow2", "-o", &options, &image, size]);
                std::fs::write(directory.path(&format!("{name}.raw")), vec![7; len]).unwrap();
            }
            let mode = format!("--preallocation={preallocation}");
            directory.qemu(&["resize", "-q", "-f", "qcow2", &mode, "q.qcow2", "5M"]);
            directory.ok(
                "strata-img",
                &["resize", "-q", "-f", "qcow2", &mode, "s.qcow2", "5M"],
            );
            let case = format!("{size} {len} {preallocation}");
            assert!(
                read(&directory.path("q.raw")) == read(&directory.path("s.raw")),
                "{case}"
            );
            assert_eq!(
                read(&directory.path("s.raw"))[..len],
                vec![7; len],
                "{case}"
            );
            directory.qemu(&[
                "compare", "-f", "qcow2", "-F", "qcow2", "q.qcow2", "s.qcow2",
            ]);
            directory.qemu(&["check", "-q", "-f", "qcow2", "s.qcow2"]);
        }
    }
}

/// But a commit makes the base show what the chain showed.
#[test]
fn a_commit_into_a_shorter_raw_data_file_leaves_zeros() {
    let directory = Directory::new();
    let options = "data_file=d.raw,data_file_raw=on";
    directory.qemu(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        options,
        "base.qcow2",
        "1M",
    ]);
    std::fs::write(directory.path("d.raw"), vec![7; 3 << 20]).unwrap();
    let over = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "base.qcow2",
        "-F",
        "qcow2",
        "top.qcow2",
        "2M",
    ];
    directory.qemu(&over);
    directory.qemu_io("top.qcow2", &["write -P 9 1500k 64k"]);
    directory.qemu(&["convert", "-f", "qcow2", "-O", "raw", "top.qcow2", "before"]);
    directory.ok("strata-img", &["commit", "-q", "-f", "qcow2", "top.qcow2"]);
    for image in ["base.qcow2", "top.qcow2"] {
        directory.qemu(&["compare", "-f", "raw", "-F", "qcow2", "before", image]);
    }
    // What lies behind the disk's new end is not the disk's.
    assert_eq!(read(&directory.path("d.raw"))[2 << 20..], vec![7; 1 << 20]);
}
