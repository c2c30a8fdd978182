//! `measure`: the same numbers, and images that keep to them.

use std::os::unix::fs::MetadataExt;

use crate::{Directory, text};

fn assert_same(directory: &Directory, args: &str) {
    let args: Vec<&str> = ["measure"].into_iter().chain(args.split(' ')).collect();
    let run = |program: &str| {
        let output = directory.run(program, &args);
        let said = text(&output.stderr).replace(program, "PROGRAM");
        (output.status.code(), text(&output.stdout), said)
    };
    assert_eq!(run("qemu-img"), run("strata-img"), "{args:?}");
}

#[test]
fn empty_disks() {
    let directory = Directory::new();
    let options = [
        "cluster_size=64k",
        "cluster_size=512",
        "cluster_size=2M",
        "cluster_size=4k,refcount_bits=1",
        "cluster_size=1k,refcount_bits=64",
        "compat=0.10",
        "extended_l2=on",
        "cluster_size=16k,extended_l2=on,refcount_bits=8",
        "preallocation=metadata",
        "preallocation=falloc",
        "preallocation=full,cluster_size=4k",
        "lazy_refcounts=on",
    ];
    for size in ["0", "1", "65536", "1M", "1000000", "100G", "1.5T", "4G"] {
        for options in options {
            if size == "1.5T" && options.contains("512") {
                continue;
            }
            assert_same(&directory, &format!("-O qcow2 -o {options} --size {size}"));
        }
        assert_same(&directory, &format!("--output=json -O qcow2 --size {size}"));
        assert_same(&directory, &format!("-O raw --size {size}"));
        assert_same(&directory, &format!("--output=json --size {size}"));
    }
}

#[test]
fn disks_with_content() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "odd.raw", "3000k"]);
    let writes = [
        "-c",
        "write 5k 1k",
        "-c",
        "write 100k 900k",
        "-c",
        "write 2999k 1k",
    ];
    directory.ok(
        "qemu-io",
        &[&["-f", "raw", "odd.raw"], &writes[..]].concat(),
    );
    directory.qemu(&["convert", "-c", "-O", "qcow2", "odd.raw", "packed.qcow2"]);
    let overlay = [
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "packed.qcow2",
        "-F",
        "qcow2",
    ];
    directory.qemu(&[&overlay[..], &["top.qcow2", "4M"]].concat());
    directory.qemu_io("top.qcow2", &["write 3500k 3k", "write -z 128k 256k"]);
    directory.qemu(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "preallocation=metadata",
        "pre.qcow2",
        "8M",
    ]);
    directory.qemu_io("pre.qcow2", &["write 1M 64k"]);
    directory.qemu(&["create", "-q", "-f", "qcow2", "bits.qcow2", "64M"]);
    directory.qemu(&["bitmap", "--add", "-g", "4k", "bits.qcow2", "one"]);
    directory.qemu(&[
        "bitmap",
        "--add",
        "--disable",
        "bits.qcow2",
        "a longer name",
    ]);
    directory.qemu_io("bits.qcow2", &["write 1M 100k"]);
    for (format, name) in [
        ("raw", "odd.raw"),
        ("qcow2", "packed.qcow2"),
        ("qcow2", "top.qcow2"),
        ("qcow2", "pre.qcow2"),
        ("qcow2", "bits.qcow2"),
    ] {
        for target in [
            "-O raw",
            "-O qcow2",
            "-O qcow2 -o cluster_size=512",
            "-O qcow2 -o cluster_size=2M",
            "-O qcow2 -o compat=0.10",
            "-O qcow2 -o preallocation=full",
            "-O qcow2 -o backing_file=base.qcow2,backing_fmt=qcow2",
            "-O qcow2 --output=json -U",
        ] {
            assert_same(&directory, &format!("{target} -f {format} {name}"));
        }
        directory.ok(
            "strata-img",
            &["convert", "-f", format, "-O", "qcow2", name, "copy"],
        );
        let args = [
            "measure",
            "--output=json",
            "-f",
            format,
            "-O",
            "qcow2",
            name,
        ];
        let measured: serde_json::Value =
            serde_json::from_str(&directory.ok("strata-img", &args)).unwrap();
        let len = std::fs::metadata(directory.path("copy")).unwrap().size();
        assert!(len <= measured["required"].as_u64().unwrap(), "{name}");
    }
}

#[test]
fn wrong_options_are_refused_as_by_qemu() {
    let directory = Directory::new();
    directory.qemu(&["create", "-q", "a.raw", "1M"]);
    for args in [
        "-O qcow2",
        "-f raw --size 1G",
        "--size 1G a.raw",
        "a.raw a.raw",
        "-O qed --size 1G",
        "-O qcow2 -o cluster_size=512 --size 1T",
        "-O qcow2 -o cluster_size=3 --size 1M",
    ] {
        assert_same(&directory, args);
    }
}
