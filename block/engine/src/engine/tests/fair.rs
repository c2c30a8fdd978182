//! A guest that asks for much does not keep other disks' requests waiting.

use std::{cell::Cell, rc::Rc};

use strata_exec::{Queue, mem::SgList};
use strata_format::qcow2::CreateOptions;
use strata_graph::{
    DetectZeroes, DiskOptions, Format,
    chain::ImageOptions,
    create_image,
    disk::{Disk, Op, Request},
};

use super::Bench;
use crate::engine::DiskSpec;

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

/// Polls until the request has ended: how often others could have had their turn.
fn polls(bench: &Bench, disk: &Disk, request: Request) -> usize {
    let ended = Rc::new(Cell::new(false));
    let slot = ended.clone();
    disk.submit(request, move |result| {
        result.unwrap();
        slot.set(true);
    });
    let mut polls = 0;
    while !ended.get() {
        if bench.engine.exec().step(Queue::Guest) {
            polls += 1;
        } else {
            std::thread::yield_now();
        }
    }
    polls
}

#[test]
fn a_long_look_for_zeros_is_no_single_one() {
    let bench = Bench::new();
    let disk = disk(&bench, "disk", 16);
    let write = whole(Op::Write { fua: false }, &SgList::zeroed(64 << 20));
    let polls = polls(&bench, &disk, write);
    assert!(polls >= 64, "{polls} polls for 64 MiB");
}

#[test]
fn changes_of_many_small_clusters_are_no_single_ones() {
    let bench = Bench::new();
    let disk = disk(&bench, "disk", 9);
    let data = SgList::zeroed(16 << 20);
    data.fill(0, 16 << 20, 1);
    let empty = SgList::empty();
    for (op, data) in [
        (Op::Write { fua: false }, &data),
        (Op::Write { fua: false }, &data),
        (Op::WriteZeroes { unmap: false }, &empty),
        (Op::Discard, &empty),
    ] {
        let request = Request {
            op,
            offset: 0,
            len: 16 * MIB,
            data: data.clone(),
        };
        let polls = polls(&bench, &disk, request);
        assert!(polls >= 64, "{polls} polls for {op:?} of 32,768 clusters");
    }
}
