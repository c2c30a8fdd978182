//! The hints that file systems get for new files: `nocow` and `extent_size_hint`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{Directory, text};

/// A file system of its own, mounted in a directory.
struct Mounted {
    // Before the directory goes.
    place: PathBuf,
    _directory: Directory,
}

impl Mounted {
    /// `None`, which is said, where that cannot be had.
    fn new(kind: &str) -> Option<Self> {
        let directory = Directory::new();
        let (file, place) = (directory.path("fs"), directory.path("mounted"));
        std::fs::create_dir(&place).unwrap();
        let fs = std::fs::File::create(&file).unwrap();
        fs.set_len(512 << 20).unwrap();
        let run = |program: &str, args: &[&Path]| {
            let output = Command::new(program).args(args).output();
            output.is_ok_and(|output| output.status.success())
        };
        let made = run(&format!("mkfs.{kind}"), &["-q".as_ref(), &file])
            && run("mount", &["-o".as_ref(), "loop".as_ref(), &file, &place]);
        if !made {
            eprintln!("skipped: no {kind} can be made or mounted");
            return None;
        }
        Some(Self {
            place,
            _directory: directory,
        })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.place).status();
    }
}

/// What `program` says of a file.
fn asked(program: &str, args: &[&str], path: &Path) -> String {
    let output = Command::new(program).args(args).arg(path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    text(&output.stdout)
        .split_whitespace()
        .next()
        .unwrap()
        .to_owned()
}

#[test]
fn they_are_taken_as_by_qemu() {
    let directory = Directory::new();
    let memory = Path::new("/dev/shm");
    let memory = tempfile::tempdir_in(memory).unwrap();
    let place = memory.path().join("a");
    for format in ["raw", "qcow2", "qed"] {
        for option in [
            "nocow=on",
            "preallocation=off,nocow=on,extent_size_hint=1M",
            "extent_size_hint=0",
            "extent_size_hint=4000",
            "extent_size_hint=4294967295",
            "extent_size_hint=5G",
            "extent_size_hint=x",
        ] {
            for path in ["a", place.to_str().unwrap()] {
                let [theirs, ours] = ["qemu-img", "strata-img"].map(|program| {
                    let args = ["create", "-f", format, "-o", option, path, "1M"];
                    let output = directory.run(program, &args);
                    let success = output.status.success();
                    let said = text(&output.stderr).replace(program, "PROGRAM");
                    // Other errors have other words.
                    let lines = success.then(|| (text(&output.stdout), said));
                    (output.status.code(), lines)
                });
                assert_eq!(theirs, ours, "{format} {option} {path}");
            }
        }
    }
}

#[test]
fn extents_are_as_large_as_was_said() {
    let Some(mounted) = Mounted::new("xfs") else {
        return;
    };
    let directory = Directory::new();
    for format in ["raw", "qcow2", "qed"] {
        for again in [false, true] {
            let path = mounted.place.join(format);
            let name = path.to_str().unwrap();
            let size = if again {
                "extent_size_hint=2M"
            } else {
                "extent_size_hint=1M"
            };
            directory.ok(
                "strata-img",
                &["create", "-q", "-f", format, "-o", size, name, "8M"],
            );
            let found = asked("xfs_io", &["-r", "-c", "extsize"], &path);
            assert_eq!(
                found,
                if again { "[2097152]" } else { "[1048576]" },
                "{format}"
            );
        }
    }
    let data = mounted.place.join("data");
    let name = mounted.place.join("image");
    let option = format!("extent_size_hint=1M,data_file={}", data.display());
    directory.ok(
        "strata-img",
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            &option,
            name.to_str().unwrap(),
            "8M",
        ],
    );
    for path in [name, data] {
        assert_eq!(
            asked("xfs_io", &["-r", "-c", "extsize"], &path),
            "[1048576]"
        );
    }
}

#[test]
fn what_is_not_to_be_copied_on_write_is_marked() {
    let Some(mounted) = Mounted::new("btrfs") else {
        return;
    };
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "source", "1M"]);
    for format in ["raw", "qcow2", "qed"] {
        let path = mounted.place.join(format);
        let name = path.to_str().unwrap();
        // Also where something was before.
        std::fs::write(&path, [7; 65536]).unwrap();
        directory.ok(
            "strata-img",
            &["create", "-q", "-f", format, "-o", "nocow=on", name, "8M"],
        );
        assert!(asked("lsattr", &[], &path).contains('C'), "{format}");
        let path = mounted.place.join(format!("{format}2"));
        let name = path.to_str().unwrap();
        directory.ok(
            "strata-img",
            &[
                "convert", "-f", "raw", "-O", format, "-o", "nocow=on", "source", name,
            ],
        );
        assert!(asked("lsattr", &[], &path).contains('C'), "{format}");
    }
}
