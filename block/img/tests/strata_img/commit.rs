//! `commit` and `rebase`: what they say and leave behind is what `qemu-img` says and leaves behind.

use crate::{Folder, text};

/// A chain `base` - `mid` - `top` with data and zeros in each.
fn chain(folder: &Folder, base: &str) {
    folder.qemu(&["create", "-f", base, "base", "3M"]);
    folder.ok("qemu-io", &["-f", base, "-c", "write -P 1 0 2M", "base"]);
    for (name, below, format) in [("mid", "base", base), ("top", "mid", "qcow2")] {
        let args = ["create", "-f", "qcow2", "-b", below, "-F", format, name];
        folder.qemu(&args);
    }
    folder.qemu_io("mid", &["write -P 2 512k 512k", "write -z 1900k 64k"]);
    folder.qemu_io(
        "top",
        &[
            "write -P 3 700k 700k",
            "write -z 256k 128k",
            "write -P 3 2999k 3k",
        ],
    );
}

/// Runs both tools on chains of their own, and compares what they say and what the images show.
fn both(base: &str, args: &[&str], shown: &[&str]) -> [Folder; 2] {
    let folders = ["qemu-img", "strata-img"].map(|program| {
        let folder = Folder::new();
        chain(&folder, base);
        let output = folder.run(program, args);
        assert!(output.status.success(), "{program} {args:?}: {output:?}");
        std::fs::write(folder.path("said"), output.stdout).unwrap();
        folder
    });
    let [theirs, ours] = &folders;
    let said = |folder: &Folder| std::fs::read_to_string(folder.path("said")).unwrap();
    let last = |text: String| text.rsplit('\r').next().unwrap().to_owned();
    assert_eq!(last(said(theirs)), last(said(ours)), "{args:?}");
    for name in shown {
        let path = theirs.path(name);
        ours.qemu(&["compare", path.to_str().unwrap(), name]);
        let backing = |folder: &Folder| {
            let info = folder.qemu(&["info", name]);
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
    folders
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
        let folders = ["qemu-img", "strata-img"].map(|program| {
            let folder = Folder::new();
            chain(&folder, "raw");
            folder.qemu(&["create", "-f", "raw", "short", "1M"]);
            folder.ok(
                "qemu-io",
                &["-f", "raw", "-c", "write -P 3 0 900k", "short"],
            );
            folder.qemu(&["create", "-f", "qcow2", "long", "9M"]);
            folder.qemu_io("long", &["write -P 9 2M 7M"]);
            let before = folder.qemu(&["convert", "-O", "raw", "top", "before"]);
            assert!(before.is_empty());
            let args = [&f[..], args].concat();
            let output = folder.run(program, &args);
            assert!(output.status.success(), "{program} {args:?}: {output:?}");
            folder
        });
        let name = args.last().unwrap();
        let [theirs, ours] = folders.map(|folder| {
            let info = folder.qemu(&["info", "-U", name]);
            let lines = info.lines().filter(|line| line.starts_with("backing"));
            let lines = lines.map(|line| line.split(" (actual").next().unwrap().to_owned());
            let shows = if *name == "top" {
                folder.qemu(&["convert", "-O", "raw", "top", "after"]);
                let [before, after] =
                    ["before", "after"].map(|n| std::fs::read(folder.path(n)).unwrap());
                assert!(before == after, "{args:?} changed what the disk shows");
                folder
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
    let folder = Folder::new();
    chain(&folder, "raw");
    folder.qemu(&["create", "-f", "qcow2", "alone", "1M"]);
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
            let output = folder.run(program, args);
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
    let output = folder.run("strata-img", &missing);
    let error = text(&output.stderr);
    assert!(
        error.contains("Could not open new backing file 'gone'"),
        "{error}"
    );
    let output = folder.run("strata-img", &["commit", "top"]);
    let error = text(&output.stderr);
    assert!(error.contains("never guessed"), "{error}");
}

#[test]
fn a_base_that_is_too_short_grows() {
    for base in ["raw", "qcow2", "qed"] {
        let sizes = ["qemu-img", "strata-img"].map(|program| {
            let folder = Folder::new();
            folder.qemu(&["create", "-f", base, "base", "1M"]);
            folder.ok("qemu-io", &["-f", base, "-c", "write -P 1 0 1M", "base"]);
            let args = [
                "create", "-f", "qcow2", "-b", "base", "-F", base, "top", "3M",
            ];
            folder.qemu(&args);
            folder.qemu_io("top", &["write -P 2 900k 300k", "write -P 3 3071k 1k"]);
            folder.qemu(&["convert", "-O", "raw", "top", "before"]);
            folder.ok(program, &["commit", "-f", "qcow2", "top"]);
            folder.qemu(&["compare", "-f", "raw", "-F", base, "before", "base"]);
            folder.qemu(&["compare", "-f", "raw", "-F", "qcow2", "before", "top"]);
            folder
                .qemu(&["info", "--output=json", "base"])
                .contains("3145728")
        });
        assert_eq!(sizes, [true; 2], "{base}");
    }
}

/// A base is named from the folder of an image above it, wherever the tool is run.
#[test]
fn a_base_is_named_from_the_images_folder() {
    for base in [
        "base",
        "./base",
        "../images/base",
        "images/base",
        "images/../images/base",
    ] {
        let folders = ["qemu-img", "strata-img"].map(|program| {
            let folder = Folder::new();
            chain(&folder, "qcow2");
            std::fs::create_dir(folder.path("images")).unwrap();
            for name in ["base", "mid", "top"] {
                std::fs::rename(folder.path(name), folder.path("images").join(name)).unwrap();
            }
            let args = ["commit", "-f", "qcow2", "-b", base, "images/top"];
            (folder.run(program, &args), folder)
        });
        let [(theirs, there), (ours, here)] = &folders;
        assert!(ours.status.success(), "{base}: {ours:?}");
        // Names from the working directory are ours alone.
        if !base.starts_with("images") {
            assert!(theirs.status.success(), "{base}: {theirs:?}");
            let path = there.path("images/base");
            here.qemu(&["compare", path.to_str().unwrap(), "images/base"]);
        }
    }
}
