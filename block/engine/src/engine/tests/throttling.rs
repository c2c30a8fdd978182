//! `block_set_io_throttle` on disks with requests under way.

use std::{cell::Cell, rc::Rc};

use strata_exec::mem::SgList;
use strata_graph::{
    DiskOptions, Format, Limit, Throttling,
    chain::ImageOptions,
    disk::{Disk, Op, Request},
};

use super::{Bench, live::snapshot};
use crate::{
    api::{BlockSetIoThrottle, Cmd, ErrorClass, Reply, ThrottleInfo},
    engine::{DiskSpec, FailedRequests},
};

fn throttle(device: &str, iops: u64, group: Option<&str>) -> Cmd {
    Cmd::BlockSetIoThrottle(Box::new(BlockSetIoThrottle {
        device: Some(device.to_owned()),
        iops,
        group: group.map(str::to_owned),
        ..BlockSetIoThrottle::default()
    }))
}

/// A raw disk of its own.
fn open(bench: &Bench, id: &str) -> Disk {
    let path = bench.path(id);
    std::fs::write(&path, [0; 1 << 16]).unwrap();
    bench.open(id, &path, Some(Format::Raw)).unwrap()
}

/// Sends `count` writes; how many have ended.
fn send(disk: &Disk, count: u64) -> Rc<Cell<u64>> {
    let ended = Rc::new(Cell::new(0));
    for n in 0..count {
        let counted = ended.clone();
        let request = Request {
            op: Op::Write { fua: false },
            offset: n * 512,
            len: 512,
            data: SgList::from_vec(vec![1; 512]),
        };
        disk.submit(request, move |result| {
            result.unwrap();
            counted.set(counted.get() + 1);
        });
    }
    ended
}

/// Goes on until `done`, which may take helper threads, and then lets everything else come as far
/// as it can.
fn settle(bench: &Bench, done: impl Fn() -> bool) {
    while !done() {
        bench.engine.poll();
    }
    while bench.engine.poll().more_work_now {}
}

fn shown(bench: &Bench) -> Vec<ThrottleInfo> {
    match bench.command(Cmd::QueryBlock).unwrap() {
        Reply::Block(disks) => disks
            .into_iter()
            .map(|disk| disk.inserted.unwrap().throttle)
            .collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_throttled_queue_keeps_neither_other_disks_nor_commands_waiting() {
    let bench = Bench::new();
    let (slow, fast) = (open(&bench, "slow"), open(&bench, "fast"));
    // A sector counts for 512 requests: one in nine minutes.
    let cmd = BlockSetIoThrottle {
        device: Some("slow".to_owned()),
        iops: 1,
        iops_size: Some(1),
        ..BlockSetIoThrottle::default()
    };
    bench
        .command(Cmd::BlockSetIoThrottle(Box::new(cmd)))
        .unwrap();
    let waiting = send(&slow, 20);
    settle(&bench, || waiting.get() > 0);
    assert_eq!(waiting.get(), 1, "the first one fills the bucket");
    let ended = send(&fast, 20);
    settle(&bench, || ended.get() >= 20);
    assert_eq!(ended.get(), 20);
    // A flush is no transfer.
    bench.run(&slow, Op::Flush, 0, 0, SgList::empty()).unwrap();
    // Graph edits drain the disk, and what waits goes to the new top.
    bench.command(snapshot("slow", &bench.path("B"))).unwrap();
    assert_eq!((waiting.get(), bench.engine.rests()), (1, false));
    // A guest that is to rest does not wait either.
    bench.engine.begin_to_rest(FailedRequests::Held);
    settle(&bench, || bench.engine.rests());
    assert_eq!((waiting.get(), bench.engine.rests()), (20, true));
    bench.engine.end_rest();
    let waiting = send(&slow, 2);
    settle(&bench, || true);
    assert_eq!(waiting.get(), 0, "what went through has been counted");
    bench.command(throttle("slow", 0, None)).unwrap();
    settle(&bench, || waiting.get() >= 2);
    assert_eq!(waiting.get(), 2);
    let top = bench.engine.find_disk("slow").unwrap().root();
    assert_eq!(top.path(), bench.path("B"));
}

#[test]
fn disks_of_a_group_share_the_limits_that_were_set_last() {
    let bench = Bench::new();
    let (a, b) = (open(&bench, "a"), open(&bench, "b"));
    assert_eq!(
        shown(&bench),
        [const { None }; 2].map(|_: Option<()>| ThrottleInfo::default())
    );
    bench.command(throttle("a", 500, Some("g"))).unwrap();
    bench.command(throttle("b", 1, Some("g"))).unwrap();
    let both = shown(&bench);
    assert_eq!((both[0].iops, both[0].group.as_deref()), (1, Some("g")));
    assert_eq!(both[0], both[1]);
    let ended = (send(&a, 5), send(&b, 5));
    let both = || ended.0.get() + ended.1.get();
    settle(&bench, || both() > 0);
    assert_eq!(
        both(),
        1,
        "the first one fills the bucket, and is alone for a second"
    );
    // A disk without a group of its own in the command stays where it is.
    bench.command(throttle("b", 2, None)).unwrap();
    assert_eq!(shown(&bench)[0].iops, 2);
    // It leaves for another one, and for none.
    bench.command(throttle("b", 1000, Some("h"))).unwrap();
    bench.command(throttle("a", 0, None)).unwrap();
    settle(&bench, || both() >= 10);
    assert_eq!((ended.0.get(), ended.1.get()), (5, 5));
    let both = shown(&bench);
    assert_eq!((both[0].iops, &both[0].group), (0, &None));
    assert_eq!((both[1].iops, both[1].group.as_deref()), (1000, Some("h")));
}

#[test]
fn limits_from_the_start_have_the_disks_name_for_a_group() {
    let bench = Bench::new();
    let path = bench.path("A");
    std::fs::write(&path, [0; 4096]).unwrap();
    let mut throttling = Throttling::default();
    throttling.limits.bytes.write = Limit {
        average: 10,
        burst: 20,
        burst_seconds: 3,
    };
    let spec = DiskSpec {
        path,
        image: ImageOptions {
            format: Some(Format::Raw),
            ..ImageOptions::default()
        },
        disk: DiskOptions {
            id: "virtio0".to_owned(),
            device: "/machine/peripheral/d0/virtio-backend".to_owned(),
            throttling,
            ..DiskOptions::default()
        },
    };
    bench.engine.open_disk(spec).unwrap();
    let shown = shown(&bench).remove(0);
    let expected = ThrottleInfo {
        bps_wr: 10,
        bps_wr_max: Some(20),
        bps_wr_max_length: Some(3),
        group: Some("virtio0".to_owned()),
        ..ThrottleInfo::default()
    };
    assert_eq!(shown, expected);
    // The device's id and path name it, too.
    for id in ["d0", "/machine/peripheral/d0/virtio-backend"] {
        let cmd = BlockSetIoThrottle {
            id: Some(id.to_owned()),
            ..BlockSetIoThrottle::default()
        };
        bench
            .command(Cmd::BlockSetIoThrottle(Box::new(cmd)))
            .unwrap();
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let bench = Bench::new();
    open(&bench, "a");
    let error = bench.command(throttle("b", 1, None)).unwrap_err();
    assert_eq!(error.class, ErrorClass::DeviceNotFound);
    assert_eq!(error.desc, "Device 'b' not found");
    let cmd = BlockSetIoThrottle {
        bps: 1,
        ..BlockSetIoThrottle::default()
    };
    let error = bench
        .command(Cmd::BlockSetIoThrottle(Box::new(cmd)))
        .unwrap_err();
    assert_eq!(error.desc, "Need exactly one of 'device' and 'id'");
    let cmd = BlockSetIoThrottle {
        device: Some("a".to_owned()),
        bps: 1,
        bps_wr: 1,
        ..BlockSetIoThrottle::default()
    };
    let error = bench
        .command(Cmd::BlockSetIoThrottle(Box::new(cmd)))
        .unwrap_err();
    assert!(
        error.desc.contains("cannot be used at the same time"),
        "{}",
        error.desc
    );
    assert_eq!(shown(&bench), [ThrottleInfo::default()]);
}
