//! What a user can get wrong: each has one clear line, and nothing changes.

use std::{path::Path, process::Command};

use strata_graph::{DiskOptions, Format, chain::ImageOptions};

use super::Bench;
use crate::{
    api::{BlockStream, BlockdevSnapshotSync, Cmd},
    engine::DiskSpec,
};

pub(super) fn open_error(bench: &Bench, path: &Path, format: Format) -> String {
    let error = bench
        .open("virtio0", path, Some(format))
        .err()
        .unwrap()
        .to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

fn qemu_img(arguments: &[&str]) {
    let output = Command::new("qemu-img").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Makes an overlay on `backing`, whose header names it without checking it.
pub(super) fn overlay(path: &Path, backing: &str, format: Option<&str>) {
    let mut arguments = vec!["create", "-q", "-u", "-f", "qcow2", "-b", backing];
    if let Some(format) = format {
        arguments.extend(["-F", format]);
    }
    let path = path.to_str().unwrap();
    arguments.extend([path, "1M"]);
    qemu_img(&arguments);
}

#[test]
fn images_that_cannot_be_used() {
    let bench = Bench::new();
    let path = bench.path("image");
    let missing = open_error(&bench, &path, Format::Qcow2);
    assert!(missing.contains("No such file"), "{missing}");
    let directory = open_error(&bench, bench.directory.path(), Format::Raw);
    assert!(directory.contains("directory"), "{directory}");
    std::fs::write(&path, "").unwrap();
    for format in [Format::Raw, Format::Qcow2] {
        open_error(&bench, &path, format);
    }
    std::fs::write(&path, [7; 4096]).unwrap();
    let wrong = open_error(&bench, &path, Format::Qcow2);
    assert!(wrong.contains("qcow2"), "{wrong}");
    assert_eq!(std::fs::read(&path).unwrap(), [7; 4096]);
}

#[test]
fn a_truncated_or_corrupt_header_is_refused_and_kept() {
    let bench = Bench::new();
    let good = std::fs::read(bench.create("good")).unwrap();
    let path = bench.path("bad");
    let broken: [(&str, usize, &[u8]); 5] = [
        ("version", 4, &[0, 0, 0, 9]),
        ("cluster bits", 20, &[0, 0, 0, 3]),
        ("encryption", 32, &[0, 0, 0, 1]),
        ("L1 outside the file", 40, &[0, 0, 0x10, 0, 0, 0, 0, 0]),
        ("unknown feature", 72, &[0x80, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for (what, offset, bytes) in broken {
        let mut image = good.clone();
        image[offset..offset + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&path, &image).unwrap();
        let error = open_error(&bench, &path, Format::Qcow2);
        assert_eq!(std::fs::read(&path).unwrap(), image, "{what}: {error}");
    }
    for len in [3, 50, 104, 65536] {
        std::fs::write(&path, &good[..len]).unwrap();
        open_error(&bench, &path, Format::Qcow2);
    }
}

#[test]
fn chains_that_cannot_be_used() {
    let bench = Bench::new();
    let path = bench.path("overlay");
    overlay(&path, "nosuch", Some("qcow2"));
    let missing = open_error(&bench, &path, Format::Qcow2);
    assert!(
        missing.contains("nosuch") && missing.contains("backing"),
        "{missing}"
    );
    let (one, two) = (bench.path("one"), bench.path("two"));
    overlay(&one, "two", Some("qcow2"));
    overlay(&two, "one", Some("qcow2"));
    let looped = open_error(&bench, &one, Format::Qcow2);
    assert!(looped.contains("loop"), "{looped}");
    overlay(&path, "nbd://host/x", Some("raw"));
    let network = open_error(&bench, &path, Format::Qcow2);
    assert!(network.contains("nbd"), "{network}");
    overlay(&path, "one", Some("vmdk"));
    let unknown = open_error(&bench, &path, Format::Qcow2);
    assert!(unknown.contains("vmdk"), "{unknown}");
}

#[test]
fn a_backing_file_without_a_format_is_not_guessed() {
    let bench = Bench::new();
    bench.create("base");
    let path = bench.path("overlay");
    overlay(&path, "base", Some("qcow2"));
    // qemu-img insists on a format: take the header extension out again.
    let mut image = std::fs::read(&path).unwrap();
    let at = image
        .windows(4)
        .position(|four| four == 0xe279_2acau32.to_be_bytes())
        .unwrap();
    image[at..at + 4].copy_from_slice(&0x1234_5678u32.to_be_bytes());
    std::fs::write(&path, &image).unwrap();
    let error = open_error(&bench, &path, Format::Qcow2);
    assert!(
        error.contains("looks like qcow2") && error.contains("backing-format"),
        "{error}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), image);
}

#[test]
fn overlays_that_cannot_be_made() {
    let bench = Bench::new();
    let _disk = bench
        .open("virtio0", &bench.create("A"), Some(Format::Qcow2))
        .unwrap();
    let snapshot = |file: &Path, format: &str| {
        let cmd = Cmd::BlockdevSnapshotSync(BlockdevSnapshotSync {
            device: Some("virtio0".to_owned()),
            snapshot_file: file.display().to_string(),
            format: Some(format.to_owned()),
            ..BlockdevSnapshotSync::default()
        });
        bench.command(cmd).unwrap_err().desc
    };
    let taken = bench.path("taken");
    std::fs::write(&taken, "mine").unwrap();
    let exists = snapshot(&taken, "qcow2");
    assert!(
        exists.contains("Could not create") && exists.contains("File exists"),
        "{exists}"
    );
    assert_eq!(std::fs::read(&taken).unwrap(), b"mine");
    let nowhere = bench.path("nosuch").join("B");
    let missing = snapshot(&nowhere, "qcow2");
    let expected = format!(
        "Could not create '{}': No such file or directory",
        nowhere.display()
    );
    assert_eq!(missing, expected);
    let raw = snapshot(&bench.path("B"), "raw");
    assert_eq!(raw, "The overlay does not support backing images");
    assert_eq!(snapshot(&bench.path("B"), "vmdk"), "Unknown driver 'vmdk'");
    assert!(!bench.path("B").exists());
}

#[test]
fn node_names_that_cannot_be_used() {
    let bench = Bench::new();
    let open = |id: &str, file: &str, node_name: &str| {
        bench.engine.open_disk(DiskSpec {
            path: bench.create(file),
            image: ImageOptions {
                format: Some(Format::Qcow2),
                node_name: Some(node_name.to_owned()),
                ..ImageOptions::default()
            },
            disk: DiskOptions {
                id: id.to_owned(),
                ..DiskOptions::default()
            },
        })
    };
    let _disk = open("virtio0", "A", "root").unwrap();
    let taken = open("virtio1", "B", "root").err().unwrap().to_string();
    assert!(
        taken.contains("node name 'root' is another layer's"),
        "{taken}"
    );
    let bad = open("virtio1", "C", "#block1").err().unwrap().to_string();
    assert!(bad.contains("Invalid node-name: '#block1'"), "{bad}");
    let snapshot = |name: &str| {
        Cmd::BlockdevSnapshotSync(BlockdevSnapshotSync {
            device: Some("virtio0".to_owned()),
            snapshot_file: bench.path("overlay").display().to_string(),
            snapshot_node_name: Some(name.to_owned()),
            ..BlockdevSnapshotSync::default()
        })
    };
    let taken = bench.command(snapshot("root")).unwrap_err().desc;
    assert_eq!(taken, "New overlay node-name already in use");
    let bad = bench.command(snapshot("1st")).unwrap_err().desc;
    assert_eq!(bad, "Invalid node-name: '1st'");
    assert!(!bench.path("overlay").exists());
}

#[test]
fn streams_that_cannot_start() {
    let bench = Bench::new();
    let _disk = bench
        .open("virtio0", &bench.create("A"), Some(Format::Qcow2))
        .unwrap();
    let stream = |job_id: Option<&str>, base: Option<&str>, base_node: Option<&str>| {
        let cmd = Cmd::BlockStream(BlockStream {
            job_id: job_id.map(str::to_owned),
            device: "virtio0".to_owned(),
            base: base.map(str::to_owned),
            base_node: base_node.map(str::to_owned),
            ..BlockStream::default()
        });
        bench.command(cmd).unwrap_err().desc
    };
    assert_eq!(
        stream(None, Some("f"), None),
        "Can't find 'f' in the backing chain"
    );
    assert!(stream(None, None, Some("n")).starts_with("Node 'n' is not a backing image of"));
    let clash = "'base' and 'base-node' cannot be specified at the same time";
    assert_eq!(stream(None, Some("f"), Some("n")), clash);
    assert_eq!(stream(Some(""), None, None), "Invalid job ID ''");
    assert!(bench.events().is_empty());
}
