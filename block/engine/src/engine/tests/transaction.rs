//! Snapshots of several disks at one moment, all of them or none.

use std::{cell::Cell, rc::Rc};

use strata_exec::mem::SgList;
use strata_graph::{
    Format,
    disk::{Disk, Op, Request},
};

use super::{Bench, live::qemu_img};
use crate::api::{
    BlockdevSnapshotSync, Cmd, CmdError, NoData, Reply, Transaction, TransactionAction,
};

impl Bench {
    fn two_disks(&self) -> [Disk; 2] {
        ["one", "two"].map(|id| {
            self.open(
                id,
                &self.create(&format!("{id}.qcow2")),
                Some(Format::Qcow2),
            )
            .unwrap()
        })
    }

    fn transaction(&self, actions: Vec<TransactionAction>) -> Result<Reply, CmdError> {
        self.command(Cmd::Transaction(Transaction {
            actions,
            properties: None,
        }))
    }

    fn snapshot_of(&self, id: &str, file: &str) -> TransactionAction {
        TransactionAction::BlockdevSnapshotSync(BlockdevSnapshotSync {
            device: Some(id.to_owned()),
            snapshot_file: self.path(file).display().to_string(),
            ..BlockdevSnapshotSync::default()
        })
    }

    fn depth_of(&self, id: &str) -> usize {
        self.engine.find_disk(id).unwrap().root().chain().count()
    }
}

#[test]
fn one_that_fails_changes_nothing() {
    let bench = Bench::new();
    let disks = bench.two_disks();
    std::fs::write(bench.path("taken"), "mine").unwrap();
    let snapshot = |id, file| bench.snapshot_of(id, file);
    for (second, words) in [
        (snapshot("two", "taken"), "File exists"),
        (snapshot("nosuch", "c"), "Cannot find device='nosuch'"),
        (
            snapshot("one", "c"),
            "Node 'one' is busy: block device is in use by snapshot",
        ),
        (snapshot("two", "b"), "File exists"),
        (
            TransactionAction::Abort(NoData {}),
            "Transaction aborted using Abort action",
        ),
    ] {
        let refused = bench.transaction(vec![snapshot("one", "b"), second]);
        let desc = refused.unwrap_err().desc;
        assert!(desc.contains(words), "{desc}");
        assert_eq!([bench.depth_of("one"), bench.depth_of("two")], [1, 1]);
        assert!(!bench.path("b").exists(), "an overlay is left: {words}");
    }
    assert_eq!(std::fs::read(bench.path("taken")).unwrap(), b"mine");
    for disk in &disks {
        bench.write(disk, 0, vec![1; 512]).unwrap();
    }
    assert_eq!(bench.transaction(Vec::new()), Ok(Reply::Done));
    let both = vec![snapshot("one", "b"), snapshot("two", "c")];
    assert_eq!(bench.transaction(both), Ok(Reply::Done));
    assert_eq!([bench.depth_of("one"), bench.depth_of("two")], [2, 2]);
    assert!(bench.engine.shut_down().is_empty());
}

/// Writes a number to the first disk and then to the second, and so on with the next number, up to
/// `end`.
fn count_up(
    disks: [Disk; 2],
    number: u64,
    which: usize,
    reached: Rc<Cell<u64>>,
    end: Rc<Cell<u64>>,
) {
    let request = Request {
        op: Op::Write { fua: false },
        offset: 0,
        len: 512,
        data: SgList::from_vec(number.to_le_bytes().repeat(64)),
    };
    let disk = disks[which].clone();
    disk.submit(request, move |result| {
        result.unwrap();
        reached.set(number);
        match which {
            0 => count_up(disks, number, 1, reached, end),
            _ if number < end.get() => count_up(disks, number + 1, 0, reached, end),
            _ => {}
        }
    });
}

#[test]
fn disks_are_cut_at_one_moment() {
    let bench = Bench::new();
    let disks = bench.two_disks();
    let (reached, end) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(u64::MAX)));
    count_up(disks, 1, 0, reached.clone(), end.clone());
    while reached.get() < 20 {
        bench.engine.poll();
    }
    // Whichever comes first.
    let both = vec![bench.snapshot_of("two", "c"), bench.snapshot_of("one", "b")];
    bench.transaction(both).unwrap();
    end.set(reached.get() + 20);
    while reached.get() < end.get() {
        bench.engine.poll();
    }
    assert!(bench.engine.shut_down().is_empty());
    let first = |name: &str| {
        let raw = bench.path("raw");
        let image = bench.path(name).display().to_string();
        qemu_img(&["convert", "-O", "raw", &image], &raw);
        let bytes = std::fs::read(&raw).unwrap();
        u64::from_le_bytes(bytes[..8].try_into().unwrap())
    };
    let (one, two) = (first("one.qcow2"), first("two.qcow2"));
    assert!((20..end.get()).contains(&one), "{one}");
    assert!(one == two || one == two + 1, "{one} and {two}");
}
