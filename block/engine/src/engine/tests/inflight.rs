//! What `info inflight` shows.

use std::{cell::Cell, rc::Rc};

use strata_exec::{
    Queue,
    mem::SgList,
    sync::{WaitQueue, promise},
};
use strata_graph::{
    Format,
    disk::{Op, Request},
};

use super::Bench;
use crate::api::{Cmd, Inflight, Reply};

fn look(bench: &Bench) -> Inflight {
    match bench.command(Cmd::QueryInflight) {
        Ok(Reply::Inflight(found)) => found,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_that_is_stuck_is_seen_with_what_it_waits_for() {
    let bench = Bench::new();
    let disk = bench
        .open("virtio0", &bench.create("A"), Some(Format::Qcow2))
        .unwrap();
    assert!(look(&bench).disks[0].layers.is_empty());
    assert!(look(&bench).tasks.is_empty());
    let exec = bench.engine.exec().clone();
    let root = bench.engine.find_disk("virtio0").unwrap().root();
    let release = Rc::new(WaitQueue::default());
    let released = release.clone();
    exec.spawn_named(Queue::Guest, "in the way", async move {
        let _range = root.enter_exclusive(65536, 65536).await.unwrap();
        released.wait().await;
    });
    while bench.engine.poll().more_work_now {}

    let ended = Rc::new(Cell::new(false));
    let end = ended.clone();
    let write = Request {
        op: Op::Write { fua: false },
        offset: 65536,
        len: 4096,
        data: SgList::from_vec(vec![7; 4096]),
    };
    disk.submit(write, move |result| end.set(result.is_ok()));
    let (drained, wait) = promise();
    bench.engine.quiesce(drained);
    while bench.engine.poll().more_work_now {}

    let found = look(&bench);
    let [of_disk] = &found.disks[..] else {
        panic!("{found:?}");
    };
    assert_eq!((of_disk.id.as_str(), of_disk.closed), ("virtio0", true));
    // The write is inside, and the drain waits until it has left.
    assert_eq!((of_disk.inside, of_disk.at_gate), (1, 1));
    assert!(of_disk.work >= 4096);
    let ranges: Vec<_> = of_disk.layers[0]
        .ranges
        .iter()
        .map(|entry| (entry.range.clone(), entry.exclusive, entry.waits))
        .collect();
    assert_eq!(
        ranges,
        [(65536..131_072, true, false), (65536..69632, false, true)]
    );
    let names: Vec<_> = found.tasks.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "in the way",
            "virtio0: write 4096 bytes at 65536",
            "drain and flush all disks"
        ]
    );

    release.wake_all();
    exec.block_on(async move { assert!(wait.await.is_empty()) });
    assert!(ended.get());
    let found = look(&bench);
    assert!(found.tasks.is_empty() && found.disks[0].layers.is_empty());
    assert!(!found.disks[0].closed);
}
