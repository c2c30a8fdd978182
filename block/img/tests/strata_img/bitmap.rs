//! `bitmap`: the same bitmaps, the same words.

use crate::{Directory, text};

/// Both programs with the same arguments, each on an image of its own.
fn assert_same(directories: &[Directory; 2], args: &[&str]) {
    let run = |directory: &Directory, program: &str| {
        let output = directory.run(program, &[&["bitmap"], args].concat());
        let said = text(&output.stderr).replace(program, "PROGRAM");
        (output.status.code(), text(&output.stdout), said)
    };
    let [theirs, ours] = directories;
    assert_eq!(run(theirs, "qemu-img"), run(ours, "strata-img"), "{args:?}");
    for name in ["a.qcow2", "b.qcow2"] {
        let bitmaps = |directory: &Directory| {
            let info = directory.qemu(&["info", "--output=json", name]);
            let info: serde_json::Value = serde_json::from_str(&info).unwrap();
            let list = info["format-specific"]["data"]["bitmaps"].as_array();
            let mut list = list.cloned().unwrap_or_default();
            list.sort_by_key(|bitmap| bitmap["name"].to_string());
            list
        };
        assert_eq!(bitmaps(theirs), bitmaps(ours), "{args:?}");
    }
    ours.qemu(&["check", "-q", "a.qcow2"]);
}

/// The bits of a bitmap, as a server of QEMU's shows them.
fn dirty(directory: &Directory, image: &str, bitmap: &str) -> String {
    let map = format!("--map=qemu:dirty-bitmap:{bitmap}");
    let server = [
        "[", "qemu-nbd", "-r", "-f", "qcow2", "-B", bitmap, image, "]",
    ];
    directory.ok("nbdinfo", &[&[&*map, "--"][..], &server].concat())
}

#[test]
fn one_thing_after_the_other() {
    let directories = [Directory::new(), Directory::new()];
    for directory in &directories {
        directory.qemu(&["create", "-q", "-f", "qcow2", "a.qcow2", "8M"]);
        let small = ["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k"];
        directory.qemu(&[&small[..], &["b.qcow2", "8M"]].concat());
        directory.qemu(&["create", "-q", "-f", "qcow2", "c.qcow2", "4M"]);
        directory.qemu(&["bitmap", "--add", "c.qcow2", "short"]);
        directory.qemu(&["bitmap", "--add", "-g", "512", "b.qcow2", "other"]);
        directory.qemu_io("b.qcow2", &["write 1M 3k"]);
    }
    let cases: [&[&str]; 26] = [
        &["--add", "a.qcow2", "one"],
        &["--add", "a.qcow2", "one"],
        &["--add", "-g", "512", "a.qcow2", "fine"],
        &["--add", "--disable", "-g", "1M", "a.qcow2", "off"],
        &["--add", "-g", "0", "a.qcow2", "usual"],
        &["--add", "-g", "3k", "a.qcow2", "x"],
        &["--add", "-g", "256", "a.qcow2", "x"],
        &["--add", "-g", "4G", "a.qcow2", "x"],
        &["--add", "b.qcow2", "small"],
        &["--remove", "--add", "--disable", "a.qcow2", "one"],
        &["--enable", "a.qcow2", "one"],
        &[
            "--merge", "other", "-b", "b.qcow2", "-F", "qcow2", "a.qcow2", "one",
        ],
        &["--merge", "one", "--merge", "off", "a.qcow2", "fine"],
        &["--add", "--merge", "one", "--clear", "a.qcow2", "two"],
        &["--add", "--clear", "--merge", "one", "a.qcow2", "three"],
        &["--merge", "short", "-b", "c.qcow2", "a.qcow2", "one"],
        &["--merge", "none", "a.qcow2", "one"],
        &["--merge", "one", "a.qcow2", "none"],
        &["--remove", "a.qcow2", "none"],
        &["--add", "a.qcow2", ""],
        &["--add", "a.qcow2"],
        &["a.qcow2", "one"],
        &["-g", "4k", "--clear", "a.qcow2", "one"],
        &["-F", "qcow2", "--merge", "one", "a.qcow2", "two"],
        &["-b", "b.qcow2", "--clear", "a.qcow2", "one"],
        &["--remove", "a.qcow2", "off"],
    ];
    for args in cases {
        assert_same(&directories, &[&["-f", "qcow2"], args].concat());
    }
    let [theirs, ours] = &directories;
    for name in ["one", "two", "three", "fine"] {
        let expected = dirty(theirs, "a.qcow2", name);
        assert_eq!(dirty(ours, "a.qcow2", name), expected, "{name}");
        assert_eq!(expected.contains("dirty"), name != "two", "{expected}");
    }
}

#[test]
fn bitmaps_that_a_program_did_not_know_are_warned_of() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "-f", "qcow2", "a.qcow2", "1M"]);
    directory.qemu(&["bitmap", "--add", "a.qcow2", "one"]);
    // No autoclear feature is valid.
    directory.poke("a.qcow2", 88, &[0; 8]);
    for program in ["qemu-img", "strata-img"] {
        let output = directory.run(program, &["map", "-f", "qcow2", "a.qcow2"]);
        assert!(output.status.success());
        let said = text(&output.stderr);
        assert!(said.starts_with(&format!("{program}: warning: ")), "{said}");
        let warnings = said.lines().filter(|line| line.contains("warning"));
        assert_eq!(warnings.count(), 1, "{said}");
    }
}

#[test]
fn images_that_cannot_have_bitmaps() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "a.raw", "1M"]);
    let old = ["create", "-q", "-f", "qcow2", "-o", "compat=0.10"];
    directory.qemu(&[&old[..], &["old.qcow2", "1M"]].concat());
    for (format, name, why) in [
        ("raw", "a.raw", "Can't store persistent bitmaps to a.raw"),
        (
            "qcow2",
            "old.qcow2",
            "Cannot store dirty bitmaps in qcow2 v2",
        ),
        ("qcow2", "missing", "No such file"),
    ] {
        let args = ["bitmap", "--add", "-f", format, name, "x"];
        let output = directory.run("strata-img", &args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(said.contains(why) && said.lines().count() == 1, "{said}");
    }
}

/// Where a cluster of 2 MiB holds a table of 8 bytes, only those are written.
#[test]
fn tables_of_bitmaps_take_no_more_room_than_with_qemu() {
    let directory = Directory::new();
    let sizes = ["qemu-img", "strata-img"].map(|program| {
        let create = [
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "cluster_size=2M",
            "a",
            "1G",
        ];
        directory.ok(program, &create);
        for name in ["one", "two"] {
            directory.ok(program, &["bitmap", "-f", "qcow2", "--add", "a", name]);
        }
        directory.qemu(&["check", "-q", "a"]);
        let file = std::fs::metadata(directory.path("a")).unwrap();
        (
            file.len(),
            std::os::unix::fs::MetadataExt::blocks(&file) * 512,
        )
    });
    let [theirs, ours] = sizes;
    assert_eq!(theirs.0, ours.0);
    assert!(ours.1 <= theirs.1 + (1 << 16), "{theirs:?} {ours:?}");
}
