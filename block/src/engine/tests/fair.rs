//! A guest that asks for much does not keep other disks' requests waiting.

use std::{cell::Cell, rc::Rc};

use super::Bench;
use crate::{
    disk::{Disk, Op, Request},
    engine::{DiskSpec, create_image},
    graph::{DetectZeroes, DiskOptions, Format, chain::ImageOptions},
    mem::SgList,
    qcow2::CreateOptions,
};

const MIB: u64 = 1 << 20;

/// A disk of 64 MiB that detects zeros, with clusters of `cluster_bits`.
fn disk(bench: &Bench, id: &str, cluster_bits: u32) -> Disk {
    let (path, exec) = (bench.path(id), bench.engine.exec().clone());
    let image = path.clone();
    let options = CreateOptions {
        size: 64 * MIB,
        cluster_size: 1 << cluster_bits,
        ..CreateOptions::default()
    };
    let made = exec.clone();
    exec.block_on(async move { create_image(&made, &image, options).await.unwrap() });
    let spec = DiskSpec {
        path,
        image: ImageOptions {
            format: Some(Format::Qcow2),
            discard: true,
            ..Default::default()
        },
        disk: DiskOptions {
            id: id.to_owned(),
            discard: true,
            detect_zeroes: DetectZeroes::On,
            ..Default::default()
        },
    };
    bench.engine.open_disk(spec).unwrap()
}

/// Sends `requests` to one disk and then a short read to another, and says how many of the former
/// had ended when the latter had.
fn ended_before(bench: &Bench, busy: &Disk, requests: Vec<Request>, other: &Disk) -> usize {
    let (ended, count) = (Rc::new(Cell::new(0)), requests.len());
    for request in requests {
        let ended = ended.clone();
        busy.submit(request, move |result| {
            result.unwrap();
            ended.set(ended.get() + 1);
        });
    }
    let seen = Rc::new(Cell::new(None));
    let (slot, so_far) = (seen.clone(), ended.clone());
    let read = Request {
        op: Op::Read,
        offset: 0,
        len: 512,
        data: SgList::zeroed(512),
    };
    other.submit(read, move |result| {
        result.unwrap();
        slot.set(Some(so_far.get()));
    });
    while ended.get() < count || seen.get().is_none() {
        bench.engine.poll();
    }
    seen.get().unwrap()
}

fn whole(op: Op, data: &SgList) -> Request {
    Request {
        op,
        offset: 0,
        len: 64 * MIB,
        data: data.clone(),
    }
}

#[test]
fn a_long_read_of_zeros_lets_others_by() {
    let bench = Bench::new();
    let (busy, other) = (disk(&bench, "busy", 16), disk(&bench, "other", 16));
    let data = SgList::zeroed(64 << 20);
    let reads = vec![whole(Op::Read, &data)];
    assert_eq!(ended_before(&bench, &busy, reads, &other), 0);
}

#[test]
fn many_reads_of_zeros_do_too() {
    let bench = Bench::new();
    let (busy, other) = (disk(&bench, "busy", 16), disk(&bench, "other", 16));
    let data = SgList::zeroed(1 << 20);
    let read = |n: u64| Request {
        op: Op::Read,
        offset: n % 64 * MIB,
        len: MIB,
        data: data.clone(),
    };
    let reads = (0..400).map(read).collect();
    let before = ended_before(&bench, &busy, reads, &other);
    assert!(before <= 16, "{before} MiB were read first");
}

#[test]
fn a_long_write_of_zeros_does_too() {
    let bench = Bench::new();
    let (busy, other) = (disk(&bench, "busy", 16), disk(&bench, "other", 16));
    let data = SgList::zeroed(64 << 20);
    let write = Op::Write { fua: false };
    // The last byte is not zero: all of them are looked at, and then written.
    data.copy_from((64 << 20) - 1, &[1]);
    let writes = vec![whole(write, &data)];
    assert_eq!(ended_before(&bench, &busy, writes, &other), 0);
    let mut last = SgList::zeroed(512);
    bench
        .run(&busy, Op::Read, 64 * MIB - 512, 512, last.clone())
        .unwrap();
    assert_eq!(last.to_vec()[511], 1);
    last = SgList::zeroed(512);
    bench.run(&busy, Op::Read, 0, 512, last.clone()).unwrap();
    assert!(last.is_zero());
}

#[test]
fn many_discards_and_zeroings_do_too() {
    let bench = Bench::new();
    let (busy, other) = (disk(&bench, "busy", 9), disk(&bench, "other", 16));
    let data = SgList::zeroed(4 << 20);
    for at in 0..4 {
        data.fill(0, 4 << 20, 1);
        bench
            .run(
                &busy,
                Op::Write { fua: false },
                at * 4 * MIB,
                4 * MIB,
                data.clone(),
            )
            .unwrap();
    }
    for op in [
        Op::WriteZeroes { unmap: false },
        Op::Discard,
        Op::WriteZeroes { unmap: true },
    ] {
        let request = |n: u64| Request {
            op,
            offset: n * MIB / 4,
            len: MIB / 4,
            data: SgList::empty(),
        };
        let requests = (0..64).map(request).collect();
        let before = ended_before(&bench, &busy, requests, &other);
        assert!(before <= 8, "{before} of {op:?} first");
    }
}
