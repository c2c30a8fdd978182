//! Layers below the top, which NBD clients read while the guest writes and layers are merged.

use std::{process::Command, thread::JoinHandle};

use strata_storage::nbd::wire::Address;

use super::{
    Bench,
    live::{chain, completed, qemu_img, stream},
};
use crate::api::{
    BlockExportAdd, BlockExportDel, BlockJobSetSpeed, Cmd, ExportType, NbdServerStart, Reply,
};

impl Bench {
    /// The node name of the layer `depth` below the top.
    fn node(&self, depth: usize) -> String {
        let disk = self.engine.find_disk("virtio0").unwrap();
        disk.root().chain().nth(depth).unwrap().name().to_owned()
    }

    /// The error's text, or nothing.
    fn export_layer(&self, node_name: &str, writable: bool) -> String {
        let result = self.command(Cmd::BlockExportAdd(Box::new(BlockExportAdd {
            writable: Some(writable),
            ..BlockExportAdd::new(ExportType::Nbd, "layer", node_name)
        })));
        result.err().map(|error| error.desc).unwrap_or_default()
    }

    fn serve(&self) {
        let start = NbdServerStart::at(Address::Unix(self.path("socket")));
        let started = self.command(Cmd::NbdServerStart(start));
        assert_eq!(started.unwrap(), Reply::Done);
    }

    /// Deletes the export that there is.
    fn delete_export(&self) {
        let delete = BlockExportDel {
            id: "layer".to_owned(),
            mode: None,
        };
        self.command(Cmd::BlockExportDel(delete)).unwrap();
        let none_left = || {
            let exports = self.command(Cmd::QueryBlockExports);
            matches!(exports, Ok(Reply::Exports(exports)) if exports.is_empty())
        };
        self.poll_until(none_left);
    }

    /// Lets a client copy the export to a file.
    fn copy_export(&self, name: &str, file: &str) -> JoinHandle<()> {
        let socket = self.path("socket");
        let uri = format!(
            "nbd+unix:///{}?socket={}",
            name.replace('#', "%23"),
            socket.display()
        );
        let file = self.path(file);
        std::thread::spawn(move || {
            let mut copy = Command::new("qemu-img");
            copy.args(["convert", "-f", "raw", "-O", "raw", &uri]);
            let output = copy.arg(file).output().unwrap();
            assert!(output.status.success(), "{output:?}");
        })
    }
}

/// What the layers A and B together show.
fn of_two() -> Vec<u8> {
    let mut bytes = vec![0; 4 << 20];
    bytes[128 << 10..][..256 << 10].fill(1);
    bytes[256 << 10..][..256 << 10].fill(2);
    bytes
}

#[test]
fn a_layer_is_read_while_the_guest_writes_and_a_merge_runs() {
    let bench = Bench::new();
    let disk = chain(&bench);
    bench.serve();
    let name = bench.node(2);
    assert_eq!(bench.export_layer(&name, false), "");
    let Ok(Reply::Exports(exports)) = bench.command(Cmd::QueryBlockExports) else {
        panic!()
    };
    assert_eq!(exports[0].node_name, name);
    // What lies above it is merged meanwhile.
    let base = bench.path("B").display().to_string();
    bench.command(stream(Some(&base), 1)).unwrap();
    for round in 0..3u8 {
        let copy = bench.copy_export(&name, "copy");
        let mut byte = 0u8;
        while !copy.is_finished() {
            byte = byte.wrapping_add(1);
            bench
                .write(&disk, 2 << 20, vec![byte | 1; 1 << 20])
                .unwrap();
        }
        copy.join().unwrap();
        assert!(std::fs::read(bench.path("copy")).unwrap() == of_two());
        if round == 0 {
            assert!(!completed(&bench.events.borrow()));
            bench
                .command(Cmd::BlockJobSetSpeed(BlockJobSetSpeed {
                    device: "virtio0".to_owned(),
                    speed: 0,
                }))
                .unwrap();
        }
        if round == 1 {
            bench.until(completed);
        }
    }
    assert_eq!(bench.node(1), name);
    drop(disk);
    assert!(bench.engine.shut_down().is_empty());
    qemu_img(&["check", "-q"], &bench.path("D"));
}

#[test]
fn a_layer_that_is_read_is_not_merged_and_not_written() {
    let bench = Bench::new();
    let _disk = chain(&bench);
    bench.serve();
    let (upper, middle) = (bench.node(1), bench.node(2));
    let refused = bench.export_layer(&middle, true);
    assert_eq!(
        refused,
        format!("Node '{middle}' is busy: node is used as backing hd of '{upper}'")
    );
    assert_eq!(bench.export_layer(&middle, false), "");
    let lowest = bench.path("A").display().to_string();
    for base in [None, Some(&*lowest)] {
        let error = bench.command(stream(base, 0)).unwrap_err();
        assert_eq!(
            error.desc,
            format!("Node '{middle}' is busy: it is exported as 'layer': delete that export first")
        );
    }
    bench.delete_export();
    bench.command(stream(Some(&lowest), 1)).unwrap();
    // A merge that runs may close any of them.
    assert_eq!(
        bench.export_layer(&middle, false),
        format!("Node '{middle}' is busy: block device is in use by block job: stream")
    );
    assert!(bench.engine.shut_down().is_empty());
}

#[test]
fn the_base_of_a_merge_is_read_also_if_the_merge_came_first() {
    let bench = Bench::new();
    let disk = chain(&bench);
    bench.serve();
    let base = bench.node(2);
    let path = bench.path("B").display().to_string();
    bench.command(stream(Some(&path), 1)).unwrap();
    assert_eq!(bench.export_layer(&base, false), "");
    bench
        .command(Cmd::BlockJobSetSpeed(BlockJobSetSpeed {
            device: "virtio0".to_owned(),
            speed: 0,
        }))
        .unwrap();
    bench.until(completed);
    let copy = bench.copy_export(&base, "copy");
    bench.poll_until(|| copy.is_finished());
    copy.join().unwrap();
    assert!(std::fs::read(bench.path("copy")).unwrap() == of_two());
    drop(disk);
    assert!(bench.engine.shut_down().is_empty());
}

#[test]
fn nothing_is_committed_below_a_layer_that_is_read_nor_into_it() {
    let bench = Bench::new();
    let _disk = chain(&bench);
    bench.serve();
    let layers: Vec<_> = (0..4).map(|depth| bench.node(depth)).collect();
    for exported in [1, 3] {
        let node = &layers[exported];
        assert_eq!(bench.export_layer(node, false), "");
        let refused = bench.commit(&layers[2], &layers[3], 0).unwrap_err();
        assert_eq!(
            refused.desc,
            format!("Node '{node}' is busy: it is exported as 'layer': delete that export first")
        );
        bench.delete_export();
    }
    bench.commit(&layers[2], &layers[3], 0).unwrap();
    assert_eq!(
        bench.export_layer(&layers[3], false),
        format!(
            "Node '{}' is busy: block device is in use by block job: commit 'commit0'",
            layers[3]
        )
    );
    bench.until(completed);
    assert!(bench.engine.shut_down().is_empty());
}
