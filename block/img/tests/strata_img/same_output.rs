//! `info`, `check`, `map` and `create`, field by field and line by line.

use serde_json::Value;

use crate::{Directory, read, text};

/// A chain of three layers with data, zero clusters and holes, and a few odd images.
fn images() -> (Directory, Vec<&'static str>) {
    let directory = Directory::new();
    directory.qemu(&["create", "-f", "raw", "base.raw", "900k"]);
    directory.ok(
        "qemu-io",
        &["-f", "raw", "-c", "write -P 1 64k 128k", "base.raw"],
    );
    let below = [
        "create",
        "-f",
        "qcow2",
        "-b",
        "base.raw",
        "-F",
        "raw",
        "low.qcow2",
        "2M",
    ];
    directory.qemu(&below);
    directory.qemu_io("low.qcow2", &["write -P 2 512k 200k", "write -z 1M 64k"]);
    directory.qemu(&[
        "create",
        "-f",
        "qcow2",
        "-b",
        "low.qcow2",
        "-F",
        "qcow2",
        "top.qcow2",
    ]);
    directory.qemu_io("top.qcow2", &["write -P 3 100k 30k", "write -z 192k 64k"]);
    let options = "cluster_size=4k,compat=0.10,preallocation=metadata";
    directory.qemu(&["create", "-f", "qcow2", "-o", options, "old.qcow2", "2M"]);
    directory.qemu_io("old.qcow2", &["write -P 4 64k 64k"]);
    let options = "cluster_size=512,refcount_bits=1,lazy_refcounts=on";
    directory.qemu(&["create", "-f", "qcow2", "-o", options, "small.qcow2", "1M"]);
    directory.qemu_io("small.qcow2", &["write -P 5 64k 64k", "discard 70k 10k"]);
    directory.qemu(&[
        "create",
        "-f",
        "qcow2",
        "-o",
        "cluster_size=2M",
        "large.qcow2",
        "1G",
    ]);
    directory.qemu_io("large.qcow2", &["write -P 6 512M 1M", "write -z 600M 4M"]);
    extended(
        &directory,
        "extended.qcow2",
        "cluster_size=16k,extended_l2=on",
    );
    let options = "extended_l2=on,preallocation=metadata";
    extended(&directory, "prepared.qcow2", options);
    directory.qemu(&["create", "-f", "qcow2", "noted.qcow2", "64M"]);
    for args in [
        &["-g", "4k", "noted.qcow2", "one"][..],
        &["--disable", "noted.qcow2", "two 2"],
    ] {
        directory.qemu(&[&["bitmap", "--add"], args].concat());
    }
    directory.qemu_io("noted.qcow2", &["write -P 7 1M 100k"]);
    directory.qemu(&["create", "-f", "qcow2", "empty.qcow2", "0"]);
    directory.qemu(&["convert", "-c", "-O", "qcow2", "top.qcow2", "packed.qcow2"]);
    let names = vec![
        "base.raw",
        "low.qcow2",
        "top.qcow2",
        "old.qcow2",
        "small.qcow2",
        "large.qcow2",
        "extended.qcow2",
        "prepared.qcow2",
        "noted.qcow2",
        "empty.qcow2",
        "packed.qcow2",
    ];
    (directory, names)
}

/// An image over `base.raw` whose clusters hold subclusters of every kind.
fn extended(directory: &Directory, name: &str, options: &str) {
    let backing = ["-b", "base.raw", "-F", "raw"];
    let create = ["create", "-f", "qcow2", "-o", options];
    directory.qemu(&[&create[..], &backing, &[name]].concat());
    let writes = [
        "write -P 7 3k 5k",
        "write -z 20k 9k",
        "write -P 7 60k 70k",
        "write -z -u 68k 33k",
        "write -P 8 99k 1k",
        "discard 256k 64k",
        "write -P 9 640k 2k",
    ];
    directory.qemu_io(name, &writes);
}

/// Both tools with the same arguments: exit code, text, and JSON where it is that.
pub fn assert_same(directory: &Directory, args: &[&str]) {
    let (theirs, ours) = (
        directory.run("qemu-img", args),
        directory.run("strata-img", args),
    );
    assert_eq!(
        theirs.status.code(),
        ours.status.code(),
        "{args:?} {ours:?}"
    );
    let (theirs, ours) = (text(&theirs.stdout), text(&ours.stdout));
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    if args.contains(&"--output=json") {
        // Fields come in another order; `Value` does not care, people neither.
        assert_eq!(json(&theirs), json(&ours), "{args:?}");
    } else {
        assert_eq!(theirs, ours, "{args:?}");
    }
}

#[test]
fn info_check_and_map() {
    let (directory, names) = images();
    for name in names {
        for output in ["--output=human", "--output=json"] {
            assert_same(&directory, &["info", output, name]);
            assert_same(&directory, &["info", "-U", "--backing-chain", output, name]);
            assert_same(&directory, &["map", output, name]);
            if name != "base.raw" {
                assert_same(&directory, &["check", output, "-f", "qcow2", name]);
            }
        }
    }
    assert_same(
        &directory,
        &[
            "map",
            "--output=json",
            "-s",
            "100k",
            "-l",
            "1M",
            "top.qcow2",
        ],
    );
    assert_same(&directory, &["check", "-q", "top.qcow2"]);
    assert_same(&directory, &["check", "base.raw"]);
}

#[test]
fn map_of_json_is_the_same_text() {
    let (directory, _) = images();
    let args = ["map", "--output=json", "top.qcow2"];
    assert_eq!(directory.qemu(&args), directory.ok("strata-img", &args));
}

#[test]
fn damaged_images() {
    let damages: [(&str, usize, u64); 5] = [
        // A refcount that is too low, one that is too high, a flag that is missing, a table entry
        // that is not aligned, and a table that lies elsewhere: offsets from the tables on.
        ("refcount", 0, 0),
        ("refcount", 8, 0x0001_0001_0001_0001),
        ("l2", 0, 1 << 63),
        ("l2", 8, 0x8000_0000_0005_0200),
        ("l1", 0, 0x8000_0001_0000_0000),
    ];
    for (table, at, bits) in damages {
        let directory = Directory::new();
        directory.qemu(&["create", "-f", "qcow2", "a.qcow2", "1M"]);
        directory.qemu_io("a.qcow2", &["write 0 192k"]);
        let l1 = directory.peek("a.qcow2", 40) as usize;
        let mask = (1u64 << 56) - 1;
        let place = at
            + match table {
                "refcount" => {
                    directory.peek("a.qcow2", directory.peek("a.qcow2", 48) as usize) as usize
                }
                "l2" => (directory.peek("a.qcow2", l1) & mask) as usize,
                _ => l1,
            };
        let new = match (table, at) {
            ("l2", 0) => directory.peek("a.qcow2", place) ^ bits,
            ("refcount", 0) => directory.peek("a.qcow2", place) & 0xffff_ffff_ffff,
            _ => bits,
        };
        directory.poke("a.qcow2", place, &new.to_be_bytes());
        let before = read(&directory.path("a.qcow2"));
        for output in ["--output=human", "--output=json"] {
            assert_same(&directory, &["check", output, "a.qcow2"]);
        }
        let args = ["check", "a.qcow2"];
        let (theirs, ours) = (
            directory.run("qemu-img", &args),
            directory.run("strata-img", &args),
        );
        assert_eq!(text(&theirs.stderr), text(&ours.stderr), "{table}+{at}");
        assert!(
            before == read(&directory.path("a.qcow2")),
            "a check changed the image"
        );
    }
}

#[test]
fn damaged_subcluster_bitmaps() {
    let own = 1u64 << 63;
    let compressed = 1u64 << 62;
    // Entry, its flags, whether it names a cluster, bitmap.
    let damages = [
        (0, own, true, 0x1_0000_0001u64),
        (2, 0, false, 1),
        (2, 0, false, 0x1_0000_0001),
        (0, compressed, true, 1 << 40),
        (1, 0, true, 1),
    ];
    for (index, flags, named, bitmap) in damages {
        let directory = Directory::new();
        let options = "cluster_size=16k,extended_l2=on";
        directory.qemu(&["create", "-f", "qcow2", "-o", options, "a.qcow2", "1M"]);
        directory.qemu_io("a.qcow2", &["write 0 18k"]);
        let mask = (1u64 << 56) - 1;
        let l1 = directory.peek("a.qcow2", 40) as usize;
        let entry = (directory.peek("a.qcow2", l1) & mask) as usize + 16 * index;
        let place = directory.peek("a.qcow2", entry) & mask;
        let descriptor = flags | if named { place } else { 0 };
        directory.poke("a.qcow2", entry, &descriptor.to_be_bytes());
        directory.poke("a.qcow2", entry + 8, &bitmap.to_be_bytes());
        let args = ["check", "a.qcow2"];
        assert_same(&directory, &args);
        let (theirs, ours) = (
            directory.run("qemu-img", &args),
            directory.run("strata-img", &args),
        );
        assert!(!theirs.stderr.is_empty());
        assert_eq!(text(&theirs.stderr), text(&ours.stderr), "{bitmap:#x}");
    }
}

#[test]
fn check_counts_internal_snapshots_and_bitmaps() {
    let directory = Directory::new();
    directory.qemu(&["create", "-f", "qcow2", "a.qcow2", "4M"]);
    directory.qemu_io("a.qcow2", &["write 0 1M"]);
    directory.qemu(&["snapshot", "-c", "one", "a.qcow2"]);
    directory.qemu_io("a.qcow2", &["write 512k 1M"]);
    directory.qemu(&["snapshot", "-c", "two", "a.qcow2"]);
    directory.qemu(&["bitmap", "--add", "a.qcow2", "bits"]);
    for output in ["--output=human", "--output=json"] {
        assert_same(&directory, &["check", output, "a.qcow2"]);
        assert_same(&directory, &["map", output, "a.qcow2"]);
    }
}

#[test]
fn create_makes_what_qemu_makes() {
    let cases: [&[&str]; 12] = [
        &["-f", "qcow2", "new.img", "100M"],
        &["-f", "qcow2", "-o", "extended_l2=on", "new.img", "10M"],
        &[
            "-f",
            "qcow2",
            "-o",
            "cluster_size=16k,extended_l2=on,preallocation=metadata,refcount_bits=64",
            "new.img",
            "70M",
        ],
        &[
            "-f",
            "qcow2",
            "-b",
            "base.raw",
            "-F",
            "raw",
            "-o",
            "extended_l2=on,preallocation=metadata",
            "new.img",
        ],
        &["-f", "qcow2", "-o", "cluster_size=512", "new.img", "10M"],
        &["-f", "qcow2", "-o", "cluster_size=2M,size=3G", "new.img"],
        &["-f", "qcow2", "-o", "compat=0.10", "new.img", "1G"],
        &[
            "-f",
            "qcow2",
            "-o",
            "refcount_bits=1,lazy_refcounts=on",
            "new.img",
            "1.5G",
        ],
        &[
            "-f",
            "qcow2",
            "-o",
            "preallocation=metadata",
            "new.img",
            "1M",
        ],
        &["-f", "qcow2", "-b", "base.raw", "-F", "raw", "new.img"],
        &[
            "-f",
            "qcow2",
            "-u",
            "-b",
            "missing.raw",
            "-F",
            "raw",
            "new.img",
            "1000",
        ],
        &["new.img", "1000"],
    ];
    for case in cases {
        let directory = Directory::new();
        directory.qemu(&["create", "base.raw", "3M"]);
        let args = [&["create"], case].concat();
        let theirs = directory.qemu(&args);
        let info = ["info", "--output=json", "new.img"];
        let mut their_info: Value = serde_json::from_str(&directory.qemu(&info)).unwrap();
        // What the name holds already is overwritten.
        std::fs::write(directory.path("new.img"), vec![1; 100_000]).unwrap();
        assert_eq!(theirs, directory.ok("strata-img", &args), "{case:?}");
        let mut our_info: Value = serde_json::from_str(&directory.qemu(&info)).unwrap();
        // How much of the file is holes is not a promise.
        for info in [&mut their_info, &mut our_info] {
            info.as_object_mut().unwrap().remove("actual-size");
        }
        assert_eq!(their_info, our_info, "{case:?}");
        if case.contains(&"qcow2") && !case.contains(&"-u") {
            directory.qemu(&["check", "new.img"]);
        }
    }
}

#[test]
fn preallocated_tables_are_seen_as_qemu_sees_them() {
    let directory = Directory::new();
    let args = [
        "create",
        "-f",
        "qcow2",
        "-o",
        "preallocation=metadata",
        "a.qcow2",
        "64M",
    ];
    directory.ok("strata-img", &args);
    directory.qemu_io("a.qcow2", &["write -P 1 1M 64k"]);
    for output in ["--output=human", "--output=json"] {
        assert_same(&directory, &["map", output, "a.qcow2"]);
        assert_same(&directory, &["check", output, "a.qcow2"]);
    }
}
