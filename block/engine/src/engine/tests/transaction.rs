//! Snapshots of several disks at one moment, all of them or none.

use std::{cell::Cell, rc::Rc};

use strata_exec::mem::SgList;
use strata_graph::{
    Format,
    disk::{Disk, Op, Request},
};

use super::{Bench, live::qemu_img};
use crate::api::{
    BitmapRef, BlockDirtyBitmap, BlockDirtyBitmapAdd, BlockDirtyBitmapMerge,
    BlockdevSnapshotInternal, BlockdevSnapshotSync, Cmd, CmdError, NoData, Reply, Transaction,
    TransactionAction,
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

    fn internal_of(&self, id: &str, name: &str) -> TransactionAction {
        TransactionAction::BlockdevSnapshotInternalSync(BlockdevSnapshotInternal {
            device: id.to_owned(),
            name: name.to_owned(),
        })
    }

    /// The bitmaps of a disk's top: name, whether it records, and dirty bytes.
    fn bitmaps_of(&self, id: &str) -> Vec<(String, bool, u64)> {
        let root = self.engine.find_disk(id).unwrap().root();
        let bitmaps = root.bitmaps().list();
        let shown = bitmaps
            .iter()
            .map(|one| (one.name().to_owned(), one.is_recording(), one.count()));
        shown.collect()
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

impl Bench {
    /// Carries out a transaction on two disks to which numbers are written in turns, before and
    /// after it; then nothing is open any more. Returns the last number.
    fn cut_a_count(&self, actions: impl FnOnce() -> Vec<TransactionAction>) -> u64 {
        let disks = self.two_disks();
        let (reached, end) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(u64::MAX)));
        count_up(disks, 1, 0, reached.clone(), end.clone());
        while reached.get() < 20 {
            self.engine.poll();
        }
        self.transaction(actions()).unwrap();
        end.set(reached.get() + 20);
        while reached.get() < end.get() {
            self.engine.poll();
        }
        assert!(self.engine.shut_down().is_empty());
        end.get()
    }
}

#[test]
fn disks_are_cut_at_one_moment() {
    let bench = Bench::new();
    // Whichever comes first.
    let end =
        bench.cut_a_count(|| vec![bench.snapshot_of("two", "c"), bench.snapshot_of("one", "b")]);
    let first = |name: &str| {
        let raw = bench.path("raw");
        let image = bench.path(name).display().to_string();
        qemu_img(&["convert", "-O", "raw", &image], &raw);
        let bytes = std::fs::read(&raw).unwrap();
        u64::from_le_bytes(bytes[..8].try_into().unwrap())
    };
    let (one, two) = (first("one.qcow2"), first("two.qcow2"));
    assert!((20..end).contains(&one), "{one}");
    assert!(one == two || one == two + 1, "{one} and {two}");
}

fn bitmap(node: &str, name: &str) -> BlockDirtyBitmap {
    BlockDirtyBitmap {
        node: node.to_owned(),
        name: name.to_owned(),
    }
}

fn add(node: &str, name: &str, persistent: bool) -> TransactionAction {
    TransactionAction::BlockDirtyBitmapAdd(BlockDirtyBitmapAdd {
        node: node.to_owned(),
        name: name.to_owned(),
        persistent: Some(persistent),
        ..BlockDirtyBitmapAdd::default()
    })
}

fn merge(node: &str, target: &str, sources: &[&str]) -> TransactionAction {
    let source = |name: &&str| BitmapRef {
        node: None,
        name: (*name).to_owned(),
    };
    TransactionAction::BlockDirtyBitmapMerge(BlockDirtyBitmapMerge {
        node: node.to_owned(),
        target: target.to_owned(),
        bitmaps: sources.iter().map(source).collect(),
    })
}

#[test]
fn bitmaps_change_with_the_rest_or_not_at_all() {
    use TransactionAction as Action;
    let bench = Bench::new();
    let [one, _two] = bench.two_disks();
    let before = vec![
        add("one", "kept", true),
        add("one", "gone", true),
        add("one", "memory", false),
    ];
    assert_eq!(bench.transaction(before), Ok(Reply::Done));
    bench.write(&one, 0, vec![1; 65536]).unwrap();
    let kept = bench.bitmaps_of("one");
    assert_eq!(kept[0], ("kept".to_owned(), true, 65536));
    let changes = || {
        vec![
            Action::BlockDirtyBitmapDisable(bitmap("one", "kept")),
            add("one", "new", true),
            merge("one", "new", &["kept", "memory"]),
            Action::BlockDirtyBitmapClear(bitmap("one", "memory")),
            Action::BlockDirtyBitmapRemove(bitmap("one", "gone")),
            bench.internal_of("two", "at rest"),
            bench.snapshot_of("one", "overlay"),
            // From here on the disk's top is the overlay.
            add("one", "kept", true),
        ]
    };
    let mut sorted = kept.clone();
    sorted.sort();
    for (last, words) in [
        (add("one", "kept", false), "Bitmap already exists: kept"),
        (
            Action::BlockDirtyBitmapEnable(bitmap("one", "gone")),
            "Dirty bitmap 'gone' not found",
        ),
        (add("nosuch", "x", false), "Cannot find device='nosuch'"),
    ] {
        let mut actions = changes();
        actions.push(last);
        let error = bench.transaction(actions).unwrap_err().desc;
        assert!(error.contains(words), "{error}");
        let mut now = bench.bitmaps_of("one");
        now.sort();
        assert_eq!(now, sorted, "{words}");
        assert!(!bench.path("overlay").exists());
    }
    // What was taken back is there after a restart, too.
    drop(one);
    assert!(bench.engine.shut_down().is_empty());
    let list = qemu_img(&["snapshot", "-l"], &bench.path("two.qcow2"));
    assert!(!list.contains("at rest"), "{list}");
    let open = |id: &str| {
        let path = bench.path(&format!("{id}.qcow2"));
        bench.open(id, &path, Some(Format::Qcow2)).unwrap()
    };
    let disks = ["one", "two"].map(open);
    let mut now = bench.bitmaps_of("one");
    now.sort();
    sorted.retain(|(name, ..)| name != "memory");
    assert_eq!(now, sorted);
    let again = vec![add("one", "memory", false)];
    assert_eq!(bench.transaction(again), Ok(Reply::Done));
    bench.write(&disks[0], 1 << 20, vec![1; 512]).unwrap();

    assert_eq!(bench.transaction(changes()), Ok(Reply::Done));
    bench.write(&disks[0], 2 << 20, vec![2; 512]).unwrap();
    assert_eq!(
        bench.bitmaps_of("one"),
        [("kept".to_owned(), true, 65536)],
        "of the overlay"
    );
    let below = bench.engine.find_disk("one").unwrap().root().backing();
    let below = below.unwrap().bitmaps().list();
    let shown: Vec<_> = below
        .iter()
        .map(|one| (one.name(), one.is_recording(), one.count()))
        .collect();
    assert_eq!(
        shown,
        [
            ("kept", false, 2 * 65536),
            ("memory", true, 0),
            ("new", true, 2 * 65536),
        ]
    );
    assert!(bench.engine.shut_down().is_empty());
    let list = qemu_img(&["snapshot", "-l"], &bench.path("two.qcow2"));
    assert!(list.contains("at rest"), "{list}");
    for name in ["one.qcow2", "two.qcow2", "overlay"] {
        qemu_img(&["check"], &bench.path(name));
    }
}

#[test]
fn a_snapshot_within_the_image_is_of_the_same_moment() {
    let bench = Bench::new();
    let end = bench.cut_a_count(|| {
        vec![
            bench.internal_of("two", "now"),
            bench.snapshot_of("one", "b"),
        ]
    });
    let first = |arguments: &[&str], name: &str| {
        let raw = bench.path("raw");
        let image = bench.path(name).display().to_string();
        let all = [&["convert", "-O", "raw"], arguments, &[&image]].concat();
        qemu_img(&all, &raw);
        let bytes = std::fs::read(&raw).unwrap();
        u64::from_le_bytes(bytes[..8].try_into().unwrap())
    };
    let one = first(&[], "one.qcow2");
    let two = first(&["-l", "now"], "two.qcow2");
    assert!((20..end).contains(&one), "{one}");
    assert!(one == two || one == two + 1, "{one} and {two}");
    assert_eq!(first(&[], "two.qcow2"), end);
}
