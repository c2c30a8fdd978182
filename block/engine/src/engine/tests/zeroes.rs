//! After a discard or a zeroing the disk reads zero, never what lies below, and the host gets its
//! blocks back: every format, with and without a backing file.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use strata_exec::mem::SgList;
use strata_graph::{
    DetectZeroes, DiskOptions, Format,
    chain::ImageOptions,
    disk::{Disk, Op},
};

use super::{Bench, DiskSpec, live::qemu_img};

const SIZE: usize = 4 << 20;

/// Formats, options of their images, and whether they can have a backing file.
const KINDS: [(Format, &str, bool); 5] = [
    (Format::Raw, "size=4M", false),
    (Format::Qcow2, "compat=1.1", true),
    (Format::Qcow2, "compat=1.1,extended_l2=on", true),
    (Format::Qcow2, "compat=0.10", true),
    (Format::Qed, "size=4M", true),
];

/// Every kind of image, alone and over a base that is full of data.
fn kinds() -> impl Iterator<Item = (Format, &'static str, bool)> {
    KINDS.into_iter().flat_map(|(format, options, backing)| {
        let all = [false, true]
            .into_iter()
            .filter(move |over| backing || !over);
        all.map(move |over| (format, options, over))
    })
}

/// Opens a new disk that is full of data of its own.
fn disk(bench: &Bench, kind: (Format, &str, bool), detect: DetectZeroes) -> (Disk, PathBuf) {
    let (format, options, over) = kind;
    let (base, path) = (bench.path("base"), bench.path("top"));
    std::fs::write(&base, vec![9; SIZE]).unwrap();
    let below = base.display().to_string();
    let mut args = vec!["create", "-q", "-f", format.name()];
    let size = format!("size=4M,{options}");
    args.extend(["-o", &size]);
    if over {
        args.extend(["-b", &below, "-F", "raw"]);
    }
    qemu_img(&args, &path);
    let disk = bench.engine.open_disk(DiskSpec {
        path: path.clone(),
        image: ImageOptions {
            format: Some(format),
            discard: true,
            ..Default::default()
        },
        disk: DiskOptions {
            id: "virtio0".to_owned(),
            discard: true,
            detect_zeroes: detect,
            ..Default::default()
        },
    });
    let disk = disk.unwrap();
    bench.write(&disk, 0, vec![1; SIZE]).unwrap();
    (disk, path)
}

/// Version 2 has no zero clusters. Over a backing file a cluster that is given up would show what
/// lies below: so zeros are written as data, and a discard does nothing, as with QEMU.
fn is_old((_, options, over): (Format, &str, bool)) -> bool {
    options == "compat=0.10" && over
}

fn flush(bench: &Bench, disk: &Disk) {
    bench.run(disk, Op::Flush, 0, 0, SgList::empty()).unwrap();
}

fn blocks(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks()
}

/// Checks what the disk shows: `byte` in the range, the data that was written elsewhere.
fn assert_shows(bench: &Bench, disk: &Disk, at: usize, len: usize, byte: u8, what: &str) {
    let mut expected = vec![1; SIZE];
    expected[at..at + len].fill(byte);
    assert!(bench.read(disk, 0, SIZE) == expected, "{what}");
}

#[test]
fn zeroed_ranges_read_zero_whatever_lies_below() {
    for kind in kinds() {
        for unmap in [false, true] {
            for (at, len) in [(1 << 20, 2 << 20), (512, 1024), (100_352, 300_032)] {
                let what = format!("{kind:?} unmap={unmap} {at}+{len}");
                let bench = Bench::new();
                let (disk, path) = disk(&bench, kind, DetectZeroes::Off);
                flush(&bench, &disk);
                let before = blocks(&path);
                let op = Op::WriteZeroes { unmap };
                bench
                    .run(&disk, op, at as u64, len as u64, SgList::empty())
                    .unwrap();
                assert_shows(&bench, &disk, at, len, 0, &what);
                let after = close(&bench, &path, kind.0);
                if unmap && len == 2 << 20 && !is_old(kind) {
                    assert!(after + 3000 < before, "{what}: {before} {after}");
                }
            }
        }
    }
}

#[test]
fn discarded_ranges_read_zero_and_take_no_space() {
    for kind in kinds() {
        let (at, len) = (1 << 20, 2u64 << 20);
        let bench = Bench::new();
        let (disk, path) = disk(&bench, kind, DetectZeroes::Off);
        flush(&bench, &disk);
        let before = blocks(&path);
        bench
            .run(&disk, Op::Discard, at, len, SgList::empty())
            .unwrap();
        let byte = u8::from(is_old(kind));
        assert_shows(
            &bench,
            &disk,
            at as usize,
            len as usize,
            byte,
            &format!("{kind:?}"),
        );
        let after = close(&bench, &path, kind.0);
        if !is_old(kind) {
            assert!(after + 3000 < before, "{kind:?}: {before} {after}");
        }
    }
}

#[test]
fn writes_of_zeros_are_detected() {
    for kind in kinds() {
        for detect in [DetectZeroes::On, DetectZeroes::Unmap] {
            let what = format!("{kind:?} {detect:?}");
            let bench = Bench::new();
            let (disk, path) = disk(&bench, kind, detect);
            flush(&bench, &disk);
            let before = blocks(&path);
            let (at, len) = (1 << 20, 2 << 20);
            bench.write(&disk, at as u64, vec![0; len]).unwrap();
            assert_shows(&bench, &disk, at, len, 0, &what);
            let after = close(&bench, &path, kind.0);
            if detect == DetectZeroes::Unmap && !is_old(kind) {
                assert!(after + 3000 < before, "{what}: {before} {after}");
            }
        }
    }
}

/// Ends everything, lets QEMU look at the image, and says how many blocks it takes then.
fn close(bench: &Bench, path: &Path, format: Format) -> u64 {
    let errors = bench.engine.shut_down();
    assert!(errors.is_empty(), "{errors:?}");
    if format != Format::Raw {
        qemu_img(&["check", "-q", "-f", format.name()], path);
    }
    blocks(path)
}
