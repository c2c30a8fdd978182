//! QED layers in live chains, as the first live merges had them.

use std::path::Path;

use strata_exec::mem::SgList;
use strata_graph::{
    Format,
    disk::{Disk, Op},
};

use super::{
    Bench,
    live::{completed, qemu_img, stream},
};
use crate::api::{BlockdevSnapshotSync, Cmd, Reply};

fn snapshot(bench: &Bench, file: &Path, format: &str) -> String {
    let cmd = Cmd::BlockdevSnapshotSync(BlockdevSnapshotSync {
        device: Some("virtio0".to_owned()),
        snapshot_file: file.display().to_string(),
        format: Some(format.to_owned()),
        ..BlockdevSnapshotSync::default()
    });
    match bench.command(cmd).unwrap() {
        Reply::Formatted(line) => line,
        other => panic!("{other:?}"),
    }
}

fn merge(bench: &Bench, disk: &Disk, base: Option<&str>) {
    bench.events();
    let before = bench.read(disk, 0, 4 << 20);
    bench.command(stream(base, 0)).unwrap();
    bench.until(completed);
    assert!(bench.read(disk, 0, 4 << 20) == before);
}

/// A disk on a base of `format` and three layers above, each with something of its own.
fn chain(bench: &Bench, format: Format, above: [&str; 3]) -> Disk {
    let base = bench.path("A");
    qemu_img(
        &["create", "-q", "-f", format.name(), "-o", "size=4M"],
        &base,
    );
    let disk = bench.open("virtio0", &base, Some(format)).unwrap();
    bench.write(&disk, 0, vec![1; 1 << 20]).unwrap();
    for (n, (name, format)) in (2u8..).zip(["B", "C", "D"].into_iter().zip(above)) {
        let line = snapshot(bench, &bench.path(name), format);
        assert!(line.contains(&format!("fmt={format} ")), "{line}");
        let start = u64::from(n) * 300 * 1024;
        bench.write(&disk, start, vec![n; 512 * 1024]).unwrap();
        let zeroes = Op::WriteZeroes { unmap: true };
        bench
            .run(&disk, zeroes, start / 2, 100 * 1024, SgList::empty())
            .unwrap();
    }
    disk
}

#[test]
fn snapshots_and_merges_work_on_qed_and_between_formats() {
    for (base, above) in [
        (Format::Qed, ["qed", "qed", "qed"]),
        (Format::Raw, ["qed", "qed", "qed"]),
        (Format::Qcow2, ["qed", "qcow2", "qed"]),
        (Format::Qed, ["qcow2", "qed", "qcow2"]),
    ] {
        let bench = Bench::new();
        let disk = chain(&bench, base, above);
        let expected = bench.read(&disk, 0, 4 << 20);
        merge(&bench, &disk, Some("A"));
        drop(disk);
        assert!(bench.engine.shut_down().is_empty());
        let top = bench.path("D");
        let format = above[2].parse().unwrap();
        qemu_img(&["check", "-q", "-f", above[2]], &top);
        let chain = qemu_img(&["info", "-f", above[2], "--backing-chain"], &top);
        assert_eq!(chain.matches("image: ").count(), 2, "{chain}");
        // The chain says all that is needed to open it again.
        let disk = bench.open("virtio0", &top, Some(format)).unwrap();
        assert!(bench.read(&disk, 0, 4 << 20) == expected);
        merge(&bench, &disk, None);
        drop(disk);
        assert!(bench.engine.shut_down().is_empty());
        std::fs::write(bench.path("expected"), &expected).unwrap();
        qemu_img(
            &[
                "compare",
                "-f",
                "raw",
                "-F",
                above[2],
                bench.path("expected").to_str().unwrap(),
            ],
            &top,
        );
        let info = qemu_img(&["info", "-f", above[2]], &top);
        assert!(!info.contains("backing file"), "{info}");
    }
}

#[test]
fn a_qed_image_that_names_a_raw_backing_file_says_so() {
    let bench = Bench::new();
    let raw = bench.path("raw");
    // A guest that writes a header into its raw disk must not get another disk.
    let crafted = std::fs::read(bench.create("crafted")).unwrap();
    let mut bytes = vec![0; 4 << 20];
    bytes[..crafted.len().min(4 << 20)].copy_from_slice(&crafted[..crafted.len().min(4 << 20)]);
    std::fs::write(&raw, &bytes).unwrap();
    let disk = bench.open("virtio0", &raw, Some(Format::Raw)).unwrap();
    snapshot(&bench, &bench.path("top"), "qed");
    drop(disk);
    assert!(bench.engine.shut_down().is_empty());
    let disk = bench
        .open("virtio0", &bench.path("top"), Some(Format::Qed))
        .unwrap();
    assert!(bench.read(&disk, 0, 4 << 20) == bytes);
}
