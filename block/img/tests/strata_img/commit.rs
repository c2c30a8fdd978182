//! `commit` and `rebase`: what they say and leave behind is what `qemu-img` says and leaves behind.

use crate::{Directory, text};

/// A chain `base` - `mid` - `top` with data and zeros in each.
fn chain(directory: &Directory, base: &str) {
    directory.qemu(&["create", "-f", base, "base", "3M"]);
    directory.ok("qemu-io", &["-f", base, "-c", "write -P 1 0 2M", "base"]);
    for (name, below, format) in [("mid", "base", base), ("top", "mid", "qcow2")] {
        let args = ["create", "-f", "qcow2", "-b", below, "-F", format, name];
        directory.qemu(&args);
    }
    directory.qemu_io("mid", &["write -P 2 512k 512k", "write -z 1900k 64k"]);
    directory.qemu_io(
        "top",
        &[
            "write -P 3 700k 700k",
            "write -z 256k 128k",
            "write -P 3 2999k 3k",
        ],
    );
}

/// Runs both tools on chains of their own, and compares what they say and what the images show.
fn both(base: &str, args: &[&str], shown: &[&str]) -> [Directory; 2] {
    let directories = ["qemu-img", "strata-img"].map(|program| {
        let directory = Directory::new();
        chain(&directory, base);
        let output = directory.run(program, args);
        assert!(output.status.success(), "{program} {args:?}: {output:?}");
        std::fs::write(directory.path("said"), output.stdout).unwrap();
        directory
    });
    let [theirs, ours] = &directories;
    let said = |directory: &Directory| std::fs::read_to_string(directory.path("said")).unwrap();
    let last = |text: String| text.rsplit('\r').next().unwrap().to_owned();
    assert_eq!(last(said(theirs)), last(said(ours)), "{args:?}");
    for name in shown {
        let path = theirs.path(name);
        ours.qemu(&["compare", path.to_str().unwrap(), name]);
        let backing = |directory: &Directory| {
            let info = directory.qemu(&["info", name]);
            let lines = info.lines().filter(|line| line.starts_with("backing"));
            lines
                .filter(|line| !line.contains("actual path"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(backing(theirs), backing(ours), "{name} {args:?}");
    }
    for name in ["mid", "top"] {
        ours.qemu(&["check", name]);
    }
    directories
}

#[test]
fn commits_are_qemus() {
    for base in ["raw", "qcow2"] {
        for args in [
            &["commit", "-f", "qcow2", "top"][..],
            &["commit", "-f", "qcow2", "-p", "-t", "unsafe", "top"],
            &["commit", "-f", "qcow2", "-d", "-q", "top"],
            &["commit", "-f", "qcow2", "-b", "base", "top"],
        ] {
            let down_to_base = args.contains(&"-b");
            let shown: &[&str] = if down_to_base {
                &["top", "base"]
            } else {
                &["top", "mid"]
            };
            let [_, ours] = both(base, args, shown);
            let kept = down_to_base || args.contains(&"-d");
            let info = ours.qemu(&["map", "--output=json", "top"]);
            let depth_0 = info.contains("\"depth\": 0, \"present\": true");
            assert_eq!(depth_0, kept, "{info}");
            assert!(kept || ours.path("top").metadata().unwrap().len() < 1 << 20);
        }
    }
}

#[test]
fn rebases_are_qemus() {
    let f = ["rebase", "-f", "qcow2"];
    for args in [
        &["-b", "base", "-F", "raw", "top"][..],
        &["-b", "", "top"],
        &[
            "-p", "-t", "none", "-T", "none", "-b", "short", "-F", "raw", "top",
        ],
        &["-b", "long", "-F", "qcow2", "top"],
        &["-u", "-b", "not/there", "-F", "raw", "mid"],
        &["-u", "-b", "", "mid"],
    ] {
        let directories = ["qemu-img", "strata-img"].map(|program| {
            let directory = Directory::new();
            chain(&directory, "raw");
            directory.qemu(&["create", "-f", "raw", "short", "1M"]);
            directory.ok(
                "qemu-io",
                &["-f", "raw", "-c", "write -P 3 0 900k", "short"],
            );
            directory.qemu(&["create", "-f", "qcow2", "long", "9M"]);
            directory.qemu_io("long", &["write -P 9 2M 7M"]);
            let before = directory.qemu(&["convert", "-O", "raw", "top", "before"]);
            assert!(before.is_empty());
            let args = [&f[..], args].concat();
            let output = directory.run(program, &args);
            assert!(output.status.success(), "{program} {args:?}: {output:?}");
            directory
        });
        let name = args.last().unwrap();
        let [theirs, ours] = directories.map(|directory| {
            let info = directory.qemu(&["info", "-U", name]);
            let lines = info.lines().filter(|line| line.starts_with("backing"));
            let lines = lines.map(|line| line.split(" (actual").next().unwrap().to_owned());
            let shows = if *name == "top" {
                directory.qemu(&["convert", "-O", "raw", "top", "after"]);
                let [before, after] =
                    ["before", "after"].map(|n| std::fs::read(directory.path(n)).unwrap());
                assert!(before == after, "{args:?} changed what the disk shows");
                directory
                    .qemu(&["map", "--output=json", "top"])
                    .matches("\"depth\": 0")
                    .count()
                    > 0
            } else {
                false
            };
            (lines.collect::<Vec<_>>(), shows)
        });
        assert_eq!(theirs, ours, "{args:?}");
    }
}

#[test]
fn refusals_are_qemus() {
    let directory = Directory::new();
    chain(&directory, "raw");
    directory.qemu(&["create", "-f", "qcow2", "alone", "1M"]);
    for args in [
        &["commit", "-f", "qcow2", "alone"][..],
        &["commit", "-f", "qcow2", "-b", "foo", "top"],
        &["commit", "-f", "qcow2", "-t", "foo", "top"],
        &["rebase", "-f", "qcow2", "-t", "foo", "-b", "", "top"],
        &["rebase", "-f", "qcow2", "-T", "foo", "-b", "", "top"],
        &["rebase", "-f", "qcow2", "-b", "base", "top"],
        &["rebase", "-f", "qcow2", "-u", "-b", "base", "top"],
        &["rebase", "-f", "qcow2", "top"],
    ] {
        let [theirs, ours] = ["qemu-img", "strata-img"].map(|program| {
            let output = directory.run(program, args);
            let error = text(&output.stderr);
            let line = error.lines().next().unwrap_or_default();
            (
                output.status.code(),
                line.split_once(": ").unwrap().1.to_owned(),
            )
        });
        assert_eq!(theirs, ours, "{args:?}");
    }
    let missing = ["rebase", "-f", "qcow2", "-b", "gone", "-F", "raw", "top"];
    let output = directory.run("strata-img", &missing);
    let error = text(&output.stderr);
    assert!(
        error.contains("Could not open new backing file 'gone'"),
        "{error}"
    );
    let output = directory.run("strata-img", &["commit", "top"]);
    let error = text(&output.stderr);
    assert!(error.contains("never guessed"), "{error}");
}

#[test]
fn a_base_that_is_too_short_grows() {
    for base in ["raw", "qcow2", "qed"] {
        let sizes = ["qemu-img", "strata-img"].map(|program| {
            let directory = Directory::new();
            directory.qemu(&["create", "-f", base, "base", "1M"]);
            directory.ok("qemu-io", &["-f", base, "-c", "write -P 1 0 1M", "base"]);
            let args = [
                "create", "-f", "qcow2", "-b", "base", "-F", base, "top", "3M",
            ];
            directory.qemu(&args);
            directory.qemu_io("top", &["write -P 2 900k 300k", "write -P 3 3071k 1k"]);
            directory.qemu(&["convert", "-O", "raw", "top", "before"]);
            directory.ok(program, &["commit", "-f", "qcow2", "top"]);
            directory.qemu(&["compare", "-f", "raw", "-F", base, "before", "base"]);
            directory.qemu(&["compare", "-f", "raw", "-F", "qcow2", "before", "top"]);
            directory
                .qemu(&["info", "--output=json", "base"])
                .contains("3145728")
        });
        assert_eq!(sizes, [true; 2], "{base}");
    }
}

/// A base is named from the directory of an image above it, wherever the tool is run.
#[test]
fn a_base_is_named_from_the_images_directory() {
    for base in [
        "base",
        "./base",
        "../images/base",
        "images/base",
        "images/../images/base",
    ] {
        let directories = ["qemu-img", "strata-img"].map(|program| {
            let directory = Directory::new();
            chain(&directory, "qcow2");
            std::fs::create_dir(directory.path("images")).unwrap();
            for name in ["base", "mid", "top"] {
                std::fs::rename(directory.path(name), directory.path("images").join(name)).unwrap();
            }
            let args = ["commit", "-f", "qcow2", "-b", base, "images/top"];
            (directory.run(program, &args), directory)
        });
        let [(theirs, there), (ours, here)] = &directories;
        assert!(ours.status.success(), "{base}: {ours:?}");
        // Names from the working directory are ours alone.
        if !base.starts_with("images") {
            assert!(theirs.status.success(), "{base}: {theirs:?}");
            let path = there.path("images/base");
            here.qemu(&["compare", path.to_str().unwrap(), "images/base"]);
        }
    }
}
