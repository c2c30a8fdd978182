//! `blockdev-snapshot`: overlays that `blockdev-add` has opened.

use std::path::Path;

use serde_json::json;
use strata_graph::Format;

use super::{
    Bench,
    live::{qemu_img, snapshot},
};
use crate::api::{
    BlockDirtyBitmapAdd, BlockdevAdd, BlockdevDel, BlockdevSnapshot, Cmd, CmdError, Reply,
    Transaction, TransactionAction,
};

impl Bench {
    /// `blockdev-add` of an image, without what lies below it.
    fn add_alone(&self, name: &str, path: &Path) -> Result<Reply, CmdError> {
        let options = json!({
            "driver": "qcow2",
            "node-name": name,
            "backing": null,
            "file": {"driver": "file", "filename": path},
        });
        let options = options.as_object().unwrap().clone();
        self.command(Cmd::BlockdevAdd(BlockdevAdd(options)))
    }

    fn put_on(&self, node: &str, overlay: &str) -> Result<Reply, CmdError> {
        self.command(Cmd::BlockdevSnapshot(BlockdevSnapshot {
            node: node.to_owned(),
            overlay: overlay.to_owned(),
        }))
    }
}

#[test]
fn a_node_becomes_the_overlay_of_a_disk() {
    let bench = Bench::new();
    let base = bench.create("A");
    let disk = bench.open("virtio0", &base, Some(Format::Qcow2)).unwrap();
    bench.write(&disk, 0, vec![1; 65536]).unwrap();
    let top = bench.path("B");
    overlay(&top, "A", "4M");
    bench.add_alone("b", &top).unwrap();
    assert_eq!(
        bench.engine.find_disk("b").unwrap().root().chain().count(),
        1
    );
    assert_eq!(bench.put_on("virtio0", "b"), Ok(Reply::Done));
    let root = bench.engine.find_disk("virtio0").unwrap().root();
    assert_eq!((root.name(), root.chain().count()), ("b", 2));
    // It is the disk's now, and no disk by itself.
    let again = bench.put_on("virtio0", "b").unwrap_err().desc;
    assert!(
        again.contains("busy") || again.contains("in use"),
        "{again}"
    );
    let deleted = bench.command(Cmd::BlockdevDel(BlockdevDel {
        node_name: "b".to_owned(),
    }));
    assert_eq!(
        deleted.unwrap_err().desc,
        "Node b is not owned by the monitor"
    );
    bench.write(&disk, 512, vec![2; 512]).unwrap();
    let seen = bench.read(&disk, 0, 4 << 20);
    assert_eq!((seen[0], seen[512]), (1, 2));
    drop((disk, root));
    assert!(bench.engine.shut_down().is_empty());
    let disk = bench.open("virtio0", &top, Some(Format::Qcow2)).unwrap();
    assert!(bench.read(&disk, 0, 4 << 20) == seen);
    qemu_img(&["check", "-U"], &top);
}

/// An overlay on `backing`, a qcow2 image, as large as what [`Bench::create`] makes or not.
fn overlay(path: &Path, backing: &str, size: &str) {
    let create = [
        "create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing,
    ];
    let done = std::process::Command::new("qemu-img")
        .args(create)
        .args([path.as_os_str(), size.as_ref()])
        .status();
    assert!(done.unwrap().success());
}

#[test]
fn what_cannot_be_an_overlay_is_refused_in_qemus_words() {
    let bench = Bench::new();
    let base = bench.create("A");
    let disk = bench.open("virtio0", &base, Some(Format::Qcow2)).unwrap();
    let other = bench.create("other");
    let _other = bench.open("virtio1", &other, Some(Format::Qcow2)).unwrap();
    bench
        .command(snapshot("virtio1", &bench.path("other.top")))
        .unwrap();
    let below = bench.engine.find_disk("virtio1").unwrap().root();
    let below = below.backing().unwrap().name().to_owned();
    bench.add_alone("none", &bench.create("none")).unwrap();
    for (name, backing, size) in [("wrong", "none", "4M"), ("short", "A", "1M")] {
        let path = bench.path(name);
        overlay(&path, backing, size);
        bench.add_alone(name, &path).unwrap();
    }
    let raw = bench.path("raw");
    std::fs::write(&raw, [0; 4096]).unwrap();
    let options =
        json!({"driver": "raw", "node-name": "raw", "file": {"driver": "file", "filename": raw}});
    let options = options.as_object().unwrap().clone();
    bench
        .command(Cmd::BlockdevAdd(BlockdevAdd(options)))
        .unwrap();
    for (node, overlay, words) in [
        (
            "nosuch",
            "none",
            "Cannot find device='nosuch' nor node-name='nosuch'",
        ),
        (
            "virtio0",
            "nosuch",
            "Cannot find device='nosuch' nor node-name='nosuch'",
        ),
        ("virtio0", "virtio1", "The overlay is already in use"),
        (&below, "none", "is busy: node is used as backing hd of"),
        (
            "virtio0",
            "raw",
            "The overlay does not support backing images",
        ),
        ("virtio0", "none", "its header names no backing file"),
        ("virtio0", "wrong", "does not lead to"),
        ("virtio0", "short", "What is to be the top shows"),
        // Nobody would find what it lies on.
        ("wrong", "none", "which was not opened with it"),
    ] {
        let error = bench.put_on(node, overlay).unwrap_err().desc;
        assert!(error.contains(words), "{overlay} on {node}: {error}");
        bench.write(&disk, 0, vec![1; 512]).unwrap();
    }
    // Nothing has become of them: they are closed as ever.
    for name in ["none", "wrong", "short", "raw"] {
        let cmd = Cmd::BlockdevDel(BlockdevDel {
            node_name: name.to_owned(),
        });
        assert_eq!(bench.command(cmd), Ok(Reply::Done), "{name}");
    }
}

#[test]
fn a_bitmap_of_the_overlay_is_made_in_the_same_transaction() {
    let bench = Bench::new();
    let base = bench.create("A");
    let disk = bench.open("virtio0", &base, Some(Format::Qcow2)).unwrap();
    let top = bench.path("B");
    overlay(&top, "A", "4M");
    bench.add_alone("b", &top).unwrap();
    let actions = vec![
        TransactionAction::BlockdevSnapshot(BlockdevSnapshot {
            node: "virtio0".to_owned(),
            overlay: "b".to_owned(),
        }),
        TransactionAction::BlockDirtyBitmapAdd(BlockDirtyBitmapAdd {
            node: "b".to_owned(),
            name: "changes".to_owned(),
            persistent: Some(true),
            ..BlockDirtyBitmapAdd::default()
        }),
    ];
    let cmd = Cmd::Transaction(Transaction {
        actions,
        properties: None,
    });
    assert_eq!(bench.command(cmd), Ok(Reply::Done));
    bench.write(&disk, 0, vec![1; 512]).unwrap();
    let root = bench.engine.find_disk("virtio0").unwrap().root();
    assert_eq!(root.bitmaps().find("changes").unwrap().count(), 65536);
    drop((disk, root));
    assert!(bench.engine.shut_down().is_empty());
    let info = qemu_img(&["info"], &top);
    assert!(info.contains("name: changes"), "{info}");
}
