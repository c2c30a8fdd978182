//! Internal snapshots while a guest writes, on real files, checked by qemu-img.

use strata_graph::Format;

use super::{
    Bench,
    live::{completed, qemu_img, snapshot, stream},
};
use crate::api::{BlockdevSnapshotDeleteInternal, BlockdevSnapshotInternal, Cmd, CmdError, Reply};

impl Bench {
    fn keep(&self, device: &str, name: &str) -> Result<Reply, CmdError> {
        self.command(Cmd::BlockdevSnapshotInternalSync(
            BlockdevSnapshotInternal {
                device: device.to_owned(),
                name: name.to_owned(),
            },
        ))
    }

    fn give_up(&self, id: Option<&str>, name: Option<&str>) -> Result<Reply, CmdError> {
        self.command(Cmd::BlockdevSnapshotDeleteInternalSync(
            BlockdevSnapshotDeleteInternal {
                device: "virtio0".to_owned(),
                id: id.map(str::to_owned),
                name: name.map(str::to_owned),
            },
        ))
    }

    /// The first byte of each of the first four clusters of what a snapshot keeps.
    fn kept(&self, image: &str, name: &str) -> [u8; 4] {
        let raw = self.path("raw");
        let image = self.path(image).display().to_string();
        qemu_img(&["convert", "-O", "raw", "-l", name, &image], &raw);
        let bytes = std::fs::read(raw).unwrap();
        std::array::from_fn(|cluster| bytes[cluster << 16])
    }
}

#[test]
fn a_disk_is_kept_while_it_is_written() {
    let bench = Bench::new();
    let disk = bench
        .open("virtio0", &bench.create("A"), Some(Format::Qcow2))
        .unwrap();
    let fill = |cluster: u64, byte: u8| {
        bench
            .write(&disk, cluster << 16, vec![byte; 65536])
            .unwrap();
    };
    fill(0, 1);
    fill(1, 1);
    assert_eq!(bench.keep("virtio0", "first"), Ok(Reply::Done));
    fill(1, 2);
    fill(2, 2);
    assert_eq!(bench.keep("virtio0", "second"), Ok(Reply::Done));
    // Part of a cluster that both keep.
    bench.write(&disk, 512, vec![3; 512]).unwrap();
    fill(2, 3);
    fill(3, 3);
    let Ok(Reply::Snapshot(gone)) = bench.give_up(None, Some("first")) else {
        panic!("it was there");
    };
    assert_eq!((gone.id.as_str(), gone.name.as_str()), ("1", "first"));
    fill(1, 4);
    // A merge goes on as ever, and so does a snapshot with an overlay.
    bench
        .command(snapshot("virtio0", &bench.path("B")))
        .unwrap();
    assert_eq!(bench.keep("virtio0", "of the overlay"), Ok(Reply::Done));
    fill(0, 5);
    bench.command(stream(None, 0)).unwrap();
    bench.until(completed);
    let seen = bench.read(&disk, 0, 4 << 20);
    let first: [u8; 4] = std::array::from_fn(|cluster| seen[cluster << 16]);
    assert_eq!(first, [5, 4, 3, 3]);
    assert!(bench.engine.shut_down().is_empty());
    for name in ["A", "B"] {
        qemu_img(&["check"], &bench.path(name));
    }
    assert_eq!(bench.kept("A", "second"), [1, 2, 2, 0]);
}

#[test]
fn what_cannot_be_done_is_refused_in_qemus_words() {
    let bench = Bench::new();
    let raw = bench.path("raw");
    std::fs::write(&raw, [0; 4096]).unwrap();
    let _raw = bench.open("virtio1", &raw, Some(Format::Raw)).unwrap();
    let _disk = bench
        .open("virtio0", &bench.create("A"), Some(Format::Qcow2))
        .unwrap();
    bench.keep("virtio0", "here").unwrap();
    for (device, name, words) in [
        (
            "nosuch",
            "x",
            "Cannot find device='nosuch' nor node-name='nosuch'",
        ),
        (
            "virtio1",
            "x",
            "Block format 'raw' used by device 'virtio1' does not support internal snapshots",
        ),
        ("virtio0", "", "Name is empty"),
        (
            "virtio0",
            "here",
            "Snapshot with name 'here' already exists on device 'virtio0'",
        ),
    ] {
        assert_eq!(bench.keep(device, name).unwrap_err().desc, words);
    }
    for (id, name, words) in [
        (None, None, "Name or id must be provided"),
        (
            None,
            Some("gone"),
            "Snapshot with id 'null' and name 'gone' does not exist on device 'virtio0'",
        ),
        (
            Some("7"),
            Some("here"),
            "Snapshot with id '7' and name 'here' does not exist on device 'virtio0'",
        ),
    ] {
        assert_eq!(bench.give_up(id, name).unwrap_err().desc, words);
    }
    // Not while a job has the disk.
    bench
        .command(snapshot("virtio0", &bench.path("B")))
        .unwrap();
    bench.write(&_disk, 0, vec![1; 1 << 20]).unwrap();
    bench
        .command(snapshot("virtio0", &bench.path("C")))
        .unwrap();
    bench.command(stream(None, 65536)).unwrap();
    let busy = "Node 'virtio0' is busy: block device is in use by block job: stream";
    assert_eq!(bench.keep("virtio0", "x").unwrap_err().desc, busy);
    assert_eq!(bench.give_up(Some("1"), None).unwrap_err().desc, busy);
    assert!(bench.engine.shut_down().is_empty());
}
