//! Disks past the host's page cache.

use std::{fs, path::Path};

use strata_graph::{Format, disk::Disk};
use strata_storage::Aio;

use super::{
    Bench,
    live::{qemu_img, snapshot, stream},
};
use crate::{
    api::{Cmd, Event, Reply},
    engine::DiskSpec,
};

fn open(bench: &Bench, path: &Path, aio: Aio) -> Disk {
    let mut spec = DiskSpec {
        path: path.to_owned(),
        ..DiskSpec::default()
    };
    spec.image.format = Some(Format::Qcow2);
    spec.image.direct = true;
    spec.image.aio = aio;
    spec.disk.id = "virtio0".to_owned();
    bench.engine.open_disk(spec).unwrap()
}

/// Whether this process has the file open for use past the page cache.
fn is_direct(path: &Path) -> bool {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().flatten();
    descriptors.map(|entry| entry.path()).any(|fd| {
        let number = fd.file_name().unwrap().to_str().unwrap();
        // Those of other tests come and go.
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|text| i32::from_str_radix(text.trim(), 8).ok());
        let is_this = fs::read_link(&fd).is_ok_and(|target| target == path);
        is_this && flags.is_some_and(|flags| flags & libc::O_DIRECT != 0)
    })
}

#[test]
fn overlays_and_merges_go_the_same_way_and_show_the_same() {
    for aio in [Aio::Threads, Aio::IoUring] {
        check_overlays_and_merges(aio);
    }
}

fn check_overlays_and_merges(aio: Aio) {
    let bench = Bench::new();
    let disk = open(&bench, &bench.create("A"), aio);
    let mut expected = vec![0; 4 << 20];
    for (number, name) in [(1u8, "A"), (2, "B"), (3, "C")] {
        if name != "A" {
            let overlay = snapshot("virtio0", &bench.path(name));
            bench.command(overlay).unwrap();
        }
        assert!(is_direct(&bench.path(name)), "{name}");
        // Neither blocks of the host nor clusters.
        let (start, end) = (usize::from(number) * 99_840 + 512, 300_032);
        expected[start..start + end].fill(number);
        let bytes = expected[start..start + end].to_vec();
        bench.write(&disk, start as u64, bytes).unwrap();
    }
    bench.command(stream(Some("A"), 0)).unwrap();
    bench.until(|events| {
        let mut events = events.iter();
        events.any(|event| matches!(event, Event::JobCompleted(_, None)))
    });
    assert!(bench.read(&disk, 0, expected.len()) == expected);
    let Ok(Reply::Block(disks)) = bench.command(Cmd::QueryBlock) else {
        panic!("no disks")
    };
    let cache = &disks[0].inserted.as_ref().unwrap().cache;
    assert!(cache.direct && cache.writeback && !cache.no_flush);
    assert!(bench.engine.shut_down().is_empty());
    qemu_img(&["check", "-q"], &bench.path("C"));
    let raw = bench.path("raw");
    fs::write(&raw, &expected).unwrap();
    let (raw, top) = (raw.display().to_string(), bench.path("C"));
    qemu_img(&["compare", "-q", "-f", "raw", &raw, "-F", "qcow2"], &top);
}
