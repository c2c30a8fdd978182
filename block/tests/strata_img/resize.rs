//! `resize`.

use crate::{Folder, read, text};

#[test]
fn says_and_does_what_qemu_img_does() {
    let folder = Folder::new();
    for format in ["qcow2", "raw", "qed"] {
        for name in ["ours", "theirs"] {
            folder.qemu(&["create", "-q", "-f", format, name, "1M"]);
        }
        let cases: &[&[&str]] = &[
            &["+1M"],
            &["3M"],
            &["+0"],
            &["1M"],
            &["-1k"],
            &["0"],
            &["-8M"],
            &["abc"],
            &["--shrink", "2M"],
            &["--shrink", "-64k"],
            &["+1000"],
            &["-q", "4G"],
        ];
        for args in cases {
            let (options, size) = args.split_at(args.len() - 1);
            let run = |program: &str, name: &str| {
                let args = [&["resize", "-f", format], options, &[name], size].concat();
                folder.run(program, &args)
            };
            let ours = run("strata-img", "ours");
            let theirs = run("qemu-img", "theirs");
            assert_eq!(
                ours.status.code(),
                theirs.status.code(),
                "{format} {args:?}: {ours:?}"
            );
            assert_eq!(
                text(&ours.stdout),
                text(&theirs.stdout),
                "{format} {args:?}"
            );
            let size = |name: &str| {
                let info = folder.qemu(&["info", "-f", format, name]);
                info.lines().nth(2).unwrap().to_owned()
            };
            assert_eq!(size("ours"), size("theirs"), "{format} {args:?}");
        }
        std::fs::remove_file(folder.path("ours")).unwrap();
        std::fs::remove_file(folder.path("theirs")).unwrap();
    }
}

#[test]
fn shows_zeros_over_a_longer_backing_file() {
    let folder = Folder::new();
    folder.qemu(&["create", "-q", "-f", "raw", "base.raw", "2M"]);
    folder.ok(
        "qemu-io",
        &["-f", "raw", "-c", "write -P 7 0 2M", "base.raw"],
    );
    for name in ["ours", "theirs"] {
        folder.qemu(&[
            "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", name, "1M",
        ]);
    }
    folder.ok("strata-img", &["resize", "-f", "qcow2", "ours", "4M"]);
    folder.qemu(&["resize", "-q", "-f", "qcow2", "theirs", "4M"]);
    let out = folder.qemu(&["compare", "-f", "qcow2", "-F", "qcow2", "ours", "theirs"]);
    assert!(out.contains("identical"), "{out}");
    folder.qemu(&["check", "-f", "qcow2", "ours"]);
}

#[test]
fn the_format_is_told() {
    let folder = Folder::new();
    folder.qemu(&["create", "-q", "-f", "qcow2", "image", "1M"]);
    let before = read(&folder.path("image"));
    let output = folder.run("strata-img", &["resize", "image", "2M"]);
    assert_eq!(output.status.code(), Some(1));
    let error = text(&output.stderr);
    assert!(error.contains("add -f qcow2"), "{error}");
    let output = folder.run("strata-img", &["resize", "-f", "qcow2", "image", "512k"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--shrink"));
    assert!(read(&folder.path("image")) == before);
}
