//! `dd`: what is copied, and what is said of operands that make no sense.

use crate::{Directory, read, text};

/// `top.qcow2` of 4 MiB on a raw base, both with data that ends in the middle of sectors.
fn images() -> Directory {
    let directory = Directory::new();
    let bytes: Vec<u8> = (0..3 << 20).map(|n: u32| (n / 1000) as u8).collect();
    std::fs::write(directory.path("base"), bytes).unwrap();
    let overlay = ["create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw"];
    directory.qemu(&[&overlay[..], &["top.qcow2", "4M"]].concat());
    directory.qemu_io(
        "top.qcow2",
        &["write -q -P 7 1000k 300", "write -q -z 2M 512k"],
    );
    directory
}

#[test]
fn ranges_are_those_of_qemu() {
    let directory = images();
    for format in ["raw", "qcow2", "qed"] {
        for operands in [
            "",
            "bs=1M count=2",
            "bs=1M skip=1",
            // The end is that of `count` blocks of the input.
            "bs=1M skip=1 count=2",
            "bs=1000 skip=7 count=1234",
            "bs=64k count=1k",
            "bs=1M skip=4",
            "bs=1M skip=9",
            "bs=1M skip=3 count=2",
            "count=0",
            "bs=1.5k count=1 count=9",
        ] {
            let mut args = vec!["dd", "-f", "qcow2", "-O", format, "if=top.qcow2"];
            args.extend(operands.split(' ').filter(|operand| !operand.is_empty()));
            let ours = directory.run("strata-img", &[&args[..], &["of=ours"]].concat());
            let theirs = directory.run("qemu-img", &[&args[..], &["of=theirs"]].concat());
            assert!(
                ours.status.success() && theirs.status.success(),
                "{args:?}: {ours:?}"
            );
            let (said, meant) = (text(&ours.stderr), text(&theirs.stderr));
            assert_eq!(
                said.replace("warning: ", ""),
                meant.replace("qemu-img", "strata-img")
            );
            directory.qemu(&["compare", "-f", format, "-F", format, "ours", "theirs"]);
            let size = |name| {
                let info = directory.qemu(&["info", "--output=json", "-f", format, name]);
                let info: serde_json::Value = serde_json::from_str(&info).unwrap();
                info["virtual-size"].as_u64().unwrap()
            };
            assert_eq!(size("ours"), size("theirs"), "{args:?}");
        }
    }
}

#[test]
fn wrong_operands_are_refused_before_anything_is_made() {
    let directory = images();
    for (operands, expected) in [
        (
            &["if=top.qcow2"][..],
            "Must specify both input and output files",
        ),
        (&["of=new"], "Must specify both input and output files"),
        (
            &["if=top.qcow2", "of=new", "bs=0"],
            "Invalid bs specified. Must be between 1 and",
        ),
        (
            &["if=top.qcow2", "of=new", "bs=3G"],
            "Invalid bs specified. Must be between 1 and",
        ),
        (
            &["if=top.qcow2", "of=new", "bs=x"],
            "Invalid bs specified. Invalid size 'x'",
        ),
        (
            &["if=top.qcow2", "of=new", "count=-1"],
            "Invalid count specified.",
        ),
        (
            &["if=top.qcow2", "of=new", "conv=sparse"],
            "unrecognized operand conv",
        ),
        (
            &["if=top.qcow2", "of=new", "new"],
            "unrecognized operand new",
        ),
        (&["if=missing", "of=new"], "No such file or directory"),
    ] {
        let args = [&["dd"], operands].concat();
        let ours = directory.run("strata-img", &args);
        let error = text(&ours.stderr);
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.contains(expected), "{error}");
        assert_eq!(ours.status.code(), Some(1));
        assert_eq!(
            directory.run("qemu-img", &args).status.code(),
            Some(1),
            "{args:?}"
        );
        assert!(!directory.path("new").exists());
    }
}

#[test]
fn an_input_is_no_output() {
    let directory = images();
    let before = read(&directory.path("top.qcow2"));
    let args = ["dd", "-f", "qcow2", "if=top.qcow2", "of=top.qcow2"];
    let output = directory.run("strata-img", &args);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(before == read(&directory.path("top.qcow2")));
}
