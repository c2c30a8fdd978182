//! Commits of layers in the middle on real files, checked by qemu-img.

use std::{path::Path, process::Command};

use strata_graph::{Format, disk::Disk};

use super::{
    Bench,
    live::{completed, qemu_img, snapshot, stream},
};
use crate::api::{BlockCommit, Cmd, CmdError, ErrorClass, Event, Reply};

impl Bench {
    /// The node name of the layer so far below the top.
    fn name_at(&self, depth: usize) -> String {
        let root = self.engine.find_disk("virtio0").unwrap().root();
        root.chain().nth(depth).unwrap().name().to_owned()
    }

    /// Commits the layer `top` into the layer `base`, both by their node names.
    pub(super) fn commit(&self, top: &str, base: &str, speed: u64) -> Result<(), CmdError> {
        self.commit_as(BlockCommit {
            job_id: Some("commit0".to_owned()),
            top_node: Some(top.to_owned()),
            base_node: Some(base.to_owned()),
            speed: Some(speed),
            ..BlockCommit::default()
        })
    }

    /// A commit on `virtio0`.
    fn commit_as(&self, cmd: BlockCommit) -> Result<(), CmdError> {
        let device = "virtio0".to_owned();
        let cmd = Cmd::BlockCommit(Box::new(BlockCommit { device, ..cmd }));
        self.command(cmd)
            .map(|reply| assert_eq!(reply, Reply::Done))
    }

    fn ended_well(&self) -> bool {
        let events = self.events();
        let well = |event: &Event| matches!(event, Event::JobCompleted(_, None));
        events.iter().any(well)
    }
}

/// A disk on [A] -> [B] -> [C] -> [D]: 128 KiB of its own number in each layer, at their own places
/// and all of them in one.
pub(super) fn chain(bench: &Bench) -> (Disk, Vec<u8>) {
    let path = bench.create("A");
    let disk = bench.open("virtio0", &path, Some(Format::Qcow2)).unwrap();
    let mut expected = vec![0; 4 << 20];
    for (i, name) in [(1u8, "A"), (2, "B"), (3, "C"), (4, "D")] {
        if i > 1 {
            let made = bench.command(snapshot("virtio0", &bench.path(name)));
            made.unwrap();
        }
        for at in [u64::from(i) << 18, 2 << 20] {
            bench.write(&disk, at, vec![i; 128 << 10]).unwrap();
            expected[at as usize..][..128 << 10].fill(i);
        }
    }
    (disk, expected)
}

pub(super) fn bytes_of(bench: &Bench, image: &str) -> Vec<u8> {
    let raw = bench.path("raw");
    let image = bench.path(image);
    let args = ["convert", "-U", "-O", "raw", image.to_str().unwrap()];
    qemu_img(&args, &raw);
    std::fs::read(raw).unwrap()
}

#[test]
fn a_layer_in_the_middle_goes_down_into_the_base() {
    let bench = Bench::new();
    let (disk, mut expected) = chain(&bench);
    let middle = ["B", "C"].map(|name| std::fs::read(bench.path(name)).unwrap());
    bench
        .commit(&bench.name_at(1), &bench.name_at(3), 256 << 10)
        .unwrap();
    bench.events();
    // The guest goes on, and the error names the holder to others.
    bench.write(&disk, 3 << 20, vec![9; 4096]).unwrap();
    expected[3 << 20..][..4096].fill(9);
    let busy = "Node 'virtio0' is busy: block device is in use by block job: commit 'commit0'";
    let refused = bench.command(snapshot("virtio0", &bench.path("E")));
    assert_eq!(refused.unwrap_err().desc, busy);
    assert_eq!(bench.command(stream(None, 0)).unwrap_err().desc, busy);
    assert_eq!(bench.read(&disk, 0, 4 << 20), expected);
    bench.until(completed);
    assert!(bench.ended_well());
    assert_eq!(bench.read(&disk, 0, 4 << 20), expected);
    // Before anything else is flushed. The base is nobody's to write any more.
    let info = qemu_img(&["info", "-U", "--backing-chain"], &bench.path("D"));
    assert_eq!(info.matches("image: ").count(), 2, "{info}");
    qemu_img(&["check"], &bench.path("A"));
    let left = ["B", "C"].map(|name| std::fs::read(bench.path(name)).unwrap());
    assert!(left == middle, "the layers between are left as they were");
    for name in ["B", "C"] {
        std::fs::remove_file(bench.path(name)).unwrap();
    }
    assert!(bench.engine.shut_down().is_empty());
    drop(disk);
    qemu_img(&["check"], &bench.path("D"));
    assert_eq!(bytes_of(&bench, "D"), expected);
}

#[test]
fn a_commit_between_read_only_layers_leaves_them_so() {
    let bench = Bench::new();
    let (disk, expected) = chain(&bench);
    bench
        .commit(&bench.name_at(2), &bench.name_at(3), 0)
        .unwrap();
    bench.until(completed);
    assert!(bench.ended_well());
    let root = bench.engine.find_disk("virtio0").unwrap().root();
    let writable: Vec<_> = root.chain().map(|node| node.is_writable()).collect();
    assert_eq!(writable, [true, false, false]);
    assert_eq!(bench.read(&disk, 0, 4 << 20), expected);
    assert!(bench.engine.shut_down().is_empty());
    assert_eq!(bytes_of(&bench, "D"), expected);
}

#[test]
fn a_cancelled_commit_leaves_the_chain_and_a_second_one_ends_it() {
    let bench = Bench::new();
    let (disk, expected) = chain(&bench);
    bench
        .commit(&bench.name_at(1), &bench.name_at(2), 65536)
        .unwrap();
    bench.read(&disk, 0, 512);
    bench.engine.jobs.cancel("commit0", false).unwrap();
    bench.until(completed);
    assert!(!bench.ended_well());
    let root = bench.engine.find_disk("virtio0").unwrap().root();
    let writable: Vec<_> = root.chain().map(|node| node.is_writable()).collect();
    assert_eq!(writable, [true, false, false, false]);
    assert_eq!(bench.read(&disk, 0, 4 << 20), expected);
    bench
        .commit(&bench.name_at(1), &bench.name_at(2), 0)
        .unwrap();
    bench.until(completed);
    assert!(bench.ended_well());
    assert!(bench.engine.shut_down().is_empty());
    assert_eq!(bytes_of(&bench, "D"), expected);
}

#[test]
fn layers_are_named_by_their_files_too() {
    let bench = Bench::new();
    let (disk, expected) = chain(&bench);
    bench
        .commit_as(BlockCommit {
            top: Some("C".to_owned()),
            base: Some(bench.path("A").display().to_string()),
            backing_file: Some("./A".to_owned()),
            filter_node_name: Some("committing".to_owned()),
            speed: Some(65536),
            ..BlockCommit::default()
        })
        .unwrap();
    // The name is the job's as long as it lasts.
    let other = bench.create("other");
    let open = || {
        let spec = super::named_spec("virtio1", &other, "committing");
        bench.engine.open_disk(spec)
    };
    let refused = open().err().unwrap().to_string();
    assert!(refused.contains("'committing'"), "{refused}");
    bench.engine.jobs.set_speed("virtio0", 0).unwrap();
    bench.until(completed);
    assert!(bench.ended_well());
    open().unwrap();
    assert_eq!(bench.read(&disk, 0, 4 << 20), expected);
    assert!(bench.engine.shut_down().is_empty());
    let info = qemu_img(&["info"], &bench.path("D"));
    assert!(info.contains("backing file: ./A "), "{info}");
    assert_eq!(bytes_of(&bench, "D"), expected);
}

#[test]
fn what_cannot_be_committed_is_refused() {
    let bench = Bench::new();
    let (_disk, _) = chain(&bench);
    let other = bench.create("other");
    let spec = super::named_spec("virtio1", &other, "other-node");
    let _other = bench.engine.open_disk(spec).unwrap();
    let names: Vec<_> = (0..4).map(|depth| bench.name_at(depth)).collect();
    let refused = |top: &str, base: &str| bench.commit(top, base, 0).unwrap_err().desc;
    let itself = "cannot commit an image into itself";
    assert_eq!(refused(&names[1], &names[1]), itself);
    let missing = "Cannot find device='' nor node-name='x'";
    assert_eq!(refused("x", &names[1]), missing);
    assert_eq!(refused(&names[1], "x"), missing);
    for (top, base) in [
        (&names[2], &names[1]),
        (&names[2], &"other-node".to_owned()),
    ] {
        let words = format!("'{base}' is not in this backing file chain");
        assert_eq!(refused(top, base), words);
    }
    let refused = |cmd: BlockCommit| bench.commit_as(cmd).unwrap_err().desc;
    let some = |text: &str| Some(text.to_owned());
    let top = |top| BlockCommit {
        top: some(top),
        ..BlockCommit::default()
    };
    assert_eq!(refused(top("nosuch")), "Top image file nosuch not found");
    assert_eq!(refused(top("A")), itself);
    let below = refused(BlockCommit {
        base: some("nosuch"),
        ..top("C")
    });
    assert_eq!(below, "Can't find 'nosuch' in the backing chain");
    let active = refused(BlockCommit {
        top: Some(bench.path("D").display().to_string()),
        backing_file: some("A"),
        ..BlockCommit::default()
    });
    assert_eq!(
        active,
        "'backing-file' specified, but 'top' is the active layer"
    );
    let twice = refused(BlockCommit {
        top_node: some("x"),
        ..top("C")
    });
    assert_eq!(twice, "'top-node' and 'top' are mutually exclusive");
    let filter = |name| BlockCommit {
        filter_node_name: some(name),
        ..top("C")
    };
    assert_eq!(refused(filter("1")), "Invalid node-name: '1'");
    assert!(refused(filter("virtio1")).contains("conflicting with a device id"));
    let elsewhere = refused(BlockCommit {
        backing_file: some("nosuch"),
        ..top("C")
    });
    assert!(elsewhere.contains("does not lead to"), "{elsewhere}");
    let on = |device: &str| {
        let device = device.to_owned();
        let cmd = BlockCommit { device, ..top("C") };
        bench.command(Cmd::BlockCommit(Box::new(cmd))).unwrap_err()
    };
    let unknown = on("nosuch");
    assert_eq!(unknown.class, ErrorClass::DeviceNotFound);
    assert_eq!(unknown.desc, "Device 'nosuch' not found");
    assert_eq!(on(&names[1]).desc, "Need a root block node");
}

#[test]
fn bases_of_other_sizes_show_what_the_chain_showed() {
    for (base_size, top_size) in [("1M", "4M"), ("4M", "1M")] {
        let bench = Bench::new();
        let image = |name: &str, size: &str, backing: Option<&str>| {
            let path = bench.path(name);
            let mut command = Command::new("qemu-img");
            command.args(["create", "-q", "-f", "qcow2"]);
            if let Some(backing) = backing {
                command.args(["-F", "qcow2", "-b"]).arg(bench.path(backing));
            }
            assert!(command.arg(&path).arg(size).status().unwrap().success());
            path
        };
        let write = |path: &Path, what: &str| {
            let command = Command::new("qemu-io")
                .args(["-c", what])
                .arg(path)
                .status();
            assert!(command.unwrap().success());
        };
        let base = image("A", base_size, None);
        write(&base, &format!("write -q -P 9 0 {base_size}"));
        let middle = image("B", top_size, Some("A"));
        write(&middle, "write -q -P 7 64k 64k");
        let top = image("C", "4M", Some("B"));
        let disk = bench.open("virtio0", &top, Some(Format::Qcow2)).unwrap();
        let before = bench.read(&disk, 0, 4 << 20);
        assert_eq!((before[0], before[64 << 10], before[1 << 20]), (9, 7, 0));
        bench
            .commit(&bench.name_at(1), &bench.name_at(2), 0)
            .unwrap();
        bench.until(completed);
        assert!(bench.ended_well());
        assert!(
            bench.read(&disk, 0, 4 << 20) == before,
            "{base_size} below {top_size}"
        );
        assert!(bench.engine.shut_down().is_empty());
        assert_eq!(bytes_of(&bench, "C"), before);
    }
}
