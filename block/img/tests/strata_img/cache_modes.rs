//! `-t` and `-T`: every mode gives the same images.

use crate::{Directory, text};

const MODES: [&str; 6] = [
    "none",
    "off",
    "directsync",
    "writeback",
    "writethrough",
    "unsafe",
];

/// A chain of two layers and a raw disk of an odd length.
fn images() -> Directory {
    let directory = Directory::new();
    let random: Vec<u8> = (0..50_077u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes())
        .collect();
    std::fs::write(directory.path("disk.raw"), random).unwrap();
    let create = ["create", "-q", "-f", "qcow2", "-b", "disk.raw", "-F", "raw"];
    let options = ["-o", "cluster_size=512", "top.qcow2", "400k"];
    directory.qemu(&[&create[..], &options].concat());
    directory.qemu_io("top.qcow2", &["write -P 5 3k 5k", "write -z 64k 7k"]);
    directory
}

#[test]
fn copies_and_comparisons() {
    let directory = images();
    for (n, mode) in MODES.into_iter().enumerate() {
        let options = ["-O qcow2", "-c -O qcow2", "-O raw", "-O qed"][n % 4];
        for (format, source) in [("raw", "disk.raw"), ("qcow2", "top.qcow2")] {
            let args = format!("convert -t {mode} -T {mode} -f {format} {options} {source} copy");
            directory.ok("strata-img", &args.split(' ').collect::<Vec<_>>());
            directory.qemu(&["compare", "-f", format, source, "copy"]);
            directory.ok("strata-img", &["compare", "-T", mode, source, "copy"]);
            std::fs::remove_file(directory.path("copy")).unwrap();
        }
    }
}

#[test]
fn changes_of_images() {
    for mode in MODES {
        let directory = images();
        directory.qemu(&["convert", "-O", "raw", "top.qcow2", "expected"]);
        let qemu_compares = |name: &str, format: &str| {
            directory.qemu(&["compare", "-f", format, "-F", "raw", name, "expected"]);
        };
        for args in [
            &[
                "rebase",
                "-t",
                mode,
                "-T",
                mode,
                "-f",
                "qcow2",
                "-b",
                "",
                "top.qcow2",
            ][..],
            &["check", "-T", mode, "-r", "all", "-f", "qcow2", "top.qcow2"],
            &["bench", "-t", mode, "-c", "20", "top.qcow2"],
        ] {
            directory.ok("strata-img", args);
            qemu_compares("top.qcow2", "qcow2");
        }
        let directory = images();
        let commit = ["commit", "-t", mode, "-f", "qcow2", "top.qcow2"];
        directory.qemu(&["convert", "-O", "raw", "top.qcow2", "expected"]);
        directory.ok("strata-img", &commit);
        directory.qemu(&["compare", "-f", "raw", "-F", "raw", "disk.raw", "expected"]);
        directory.qemu(&["check", "-q", "top.qcow2"]);
    }
}

#[test]
fn where_the_file_system_cannot() {
    let directory = Directory::new();
    let args = [
        "convert",
        "-T",
        "none",
        "-f",
        "raw",
        "/proc/version",
        "copy",
    ];
    let output = directory.run("strata-img", &args);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(!directory.path("copy").exists());
}
