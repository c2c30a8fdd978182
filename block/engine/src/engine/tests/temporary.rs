//! Disks that are thrown away, and many of them on one image.

use std::{fs, path::Path, process::Command};

use strata_exec::mem::SgList;
use strata_graph::{
    Format,
    disk::{Disk, Op},
};

use super::{
    Bench,
    live::{completed, qemu_img, snapshot, stream},
    spec,
};
use crate::api::{
    BlockCommit, BlockResize, BlockdevSnapshotSync, Cmd, CommitDisk, NewImageMode, Reply,
};

impl Bench {
    /// Opens a disk whose writes go to the directory `temporary`.
    fn open_temporary(
        &self,
        id: &str,
        path: &Path,
        format: Option<Format>,
    ) -> strata_storage::error::Result<Disk> {
        let mut spec = spec(id, path, format);
        spec.disk.temporary = Some(self.path("temporary"));
        self.engine.open_disk(spec)
    }

    /// A raw image of 1 MiB, and an empty directory for temporary files.
    fn base(&self) -> (std::path::PathBuf, Vec<u8>) {
        let (path, bytes) = (self.path("base"), vec![7; 1 << 20]);
        fs::write(&path, &bytes).unwrap();
        fs::create_dir(self.path("temporary")).unwrap();
        (path, bytes)
    }

    /// The same with the disk `virtio0` over it.
    fn over_base(&self) -> (std::path::PathBuf, Vec<u8>, Disk) {
        let (base, bytes) = self.base();
        let disk = self.open_temporary("virtio0", &base, Some(Format::Raw));
        (base, bytes, disk.unwrap())
    }

    fn left_behind(&self) -> usize {
        fs::read_dir(self.path("temporary")).unwrap().count()
    }
}

#[test]
fn what_is_written_is_gone_in_the_end() {
    let bench = Bench::new();
    let (base, bytes, disk) = bench.over_base();
    bench.write(&disk, 4096, vec![9; 512]).unwrap();
    bench.run(&disk, Op::Flush, 0, 0, SgList::empty()).unwrap();
    let seen = bench.read(&disk, 0, 1 << 20);
    assert_eq!((seen[4095], seen[4096], seen[4608]), (7, 9, 7));
    assert_eq!(bench.left_behind(), 0);
    let Reply::Block(disks) = bench.command(Cmd::QueryBlock).unwrap() else {
        panic!("no disks");
    };
    let shown = disks[0].inserted.as_ref().unwrap();
    assert_eq!(shown.file, "/dev/null/temporary-overlay-of-virtio0");
    assert_eq!(shown.backing_file.as_deref(), base.to_str());
    assert!(bench.engine.shut_down().is_empty());
    assert_eq!((bench.left_behind(), fs::read(&base).unwrap()), (0, bytes));
}

#[test]
fn the_image_below_gets_nothing_of_it() {
    let bench = Bench::new();
    let (base, bytes, disk) = bench.over_base();
    bench.write(&disk, 4096, vec![9; 512]).unwrap();
    let device = || "virtio0".to_owned();
    let active = Cmd::BlockCommit(Box::new(BlockCommit {
        device: device(),
        ..BlockCommit::default()
    }));
    let by_people = Cmd::Commit(CommitDisk { device: device() });
    for cmd in [&active, &by_people] {
        let refused = bench.command(cmd.clone()).unwrap_err().desc;
        assert!(refused.contains("temporary (snapshot=on)"), "{refused}");
    }
    // Nor does it once another layer is on top.
    let kept = bench.path("kept");
    bench.command(snapshot("virtio0", &kept)).unwrap();
    let refused = bench.command(active).unwrap_err().desc;
    assert!(refused.contains("temporary (snapshot=on)"), "{refused}");
    assert!(bench.engine.shut_down().is_empty());
    assert_eq!(fs::read(&base).unwrap(), bytes);
}

#[test]
fn a_hundred_disks_share_an_image() {
    let bench = Bench::new();
    let (base, bytes) = bench.base();
    let disks: Vec<_> = (0..100u8)
        .map(|n| {
            let disk = bench
                .open_temporary(&format!("virtio{n}"), &base, Some(Format::Raw))
                .unwrap();
            bench
                .write(&disk, u64::from(n) * 512, vec![n; 512])
                .unwrap();
            disk
        })
        .collect();
    for (n, disk) in (0..100u8).zip(&disks) {
        let mut expected = bytes.clone();
        expected[usize::from(n) * 512..][..512].fill(n);
        assert!(bench.read(disk, 0, 1 << 20) == expected, "disk {n}");
    }
    // Others share it, too, as long as they only read.
    let base_name = base.to_str().unwrap();
    let qemu_io = |words: &[&str]| {
        let words = [&["-f", "raw"], words, &[base_name]].concat();
        Command::new("qemu-io").args(words).output().unwrap()
    };
    assert!(
        qemu_io(&["-s", "-c", "write -q 0 512"]).status.success(),
        "QEMU's own"
    );
    assert!(qemu_io(&["-r", "-c", "read -q 0 512"]).status.success());
    let refused = qemu_io(&["-c", "write -q 0 512"]);
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("lock"),
        "a writer was let in"
    );
    assert!(bench.engine.shut_down().is_empty());
    assert_eq!((bench.left_behind(), fs::read(&base).unwrap()), (0, bytes));
}

#[test]
fn a_snapshot_that_is_streamed_keeps_it_all() {
    let bench = Bench::new();
    let (base, bytes, disk) = bench.over_base();
    let kept = bench.path("kept");
    bench.write(&disk, 0, vec![1; 65536]).unwrap();
    bench.command(snapshot("virtio0", &kept)).unwrap();
    bench.write(&disk, 65536, vec![2; 65536]).unwrap();

    // Until then nobody takes it for a whole disk.
    let half = bench.path("half");
    fs::copy(&kept, &half).unwrap();
    let opened = Command::new("qemu-img")
        .args(["map", "-U"])
        .arg(&half)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&opened.stderr);
    assert!(said.contains("/dev/null/temporary-overlay"), "{said}");
    let error = bench.open("again", &half, Some(Format::Qcow2)).err();
    let said = error.unwrap().to_string();
    assert!(
        said.contains("temporary overlay, which has gone with the process"),
        "{said}"
    );

    bench.command(stream(None, 0)).unwrap();
    bench.until(completed);
    bench.write(&disk, 131_072, vec![3; 512]).unwrap();
    assert!(bench.engine.shut_down().is_empty());
    let mut expected = bytes.clone();
    expected[..65536].fill(1);
    expected[65536..131_072].fill(2);
    expected[131_072..131_584].fill(3);
    qemu_img(&["check", "-q", "-f", "qcow2"], &kept);
    let info = qemu_img(&["info", "-f", "qcow2", "--output=json"], &kept);
    assert!(!info.contains("backing-filename"), "{info}");
    let raw = bench.path("raw");
    fs::write(&raw, &expected).unwrap();
    let compare = [
        "compare",
        "-f",
        "qcow2",
        "-F",
        "raw",
        kept.to_str().unwrap(),
    ];
    qemu_img(&compare, &raw);
    assert_eq!((bench.left_behind(), fs::read(&base).unwrap()), (0, bytes));
}

#[test]
fn a_snapshot_can_be_streamed_down_to_the_image() {
    let bench = Bench::new();
    let (base, bytes, disk) = bench.over_base();
    let kept = bench.path("kept");
    bench.write(&disk, 0, vec![1; 512]).unwrap();
    bench.command(snapshot("virtio0", &kept)).unwrap();
    bench.command(stream(base.to_str(), 0)).unwrap();
    bench.until(completed);
    assert!(bench.engine.shut_down().is_empty());
    drop(disk);
    let again = Bench::new();
    let disk = again.open("virtio0", &kept, Some(Format::Qcow2)).unwrap();
    let seen = again.read(&disk, 0, 1 << 20);
    assert_eq!((&seen[..512], &seen[512..]), (&[1; 512][..], &bytes[512..]));
}

#[test]
fn it_can_be_resized() {
    let bench = Bench::new();
    let (base, bytes, disk) = bench.over_base();
    let size = 2 << 20;
    let device = Some("virtio0".to_owned());
    let resize = BlockResize {
        device,
        node_name: None,
        size,
    };
    bench.command(Cmd::BlockResize(resize)).unwrap();
    let seen = bench.read(&disk, 0, 2 << 20);
    assert_eq!(seen, [bytes.clone(), vec![0; 1 << 20]].concat());
    assert_eq!(fs::read(&base).unwrap(), bytes);
}

#[test]
fn an_overlay_that_exists_cannot_be_put_on_it() {
    let bench = Bench::new();
    let (base, _, _disk) = bench.over_base();
    let existing = bench.path("existing");
    let backing = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b"];
    qemu_img(
        &[&backing[..], &[base.to_str().unwrap()]].concat(),
        &existing,
    );
    let command = BlockdevSnapshotSync {
        device: Some("virtio0".to_owned()),
        snapshot_file: existing.display().to_string(),
        mode: Some(NewImageMode::Existing),
        ..BlockdevSnapshotSync::default()
    };
    let error = bench.command(Cmd::BlockdevSnapshotSync(command));
    let said = error.unwrap_err().desc;
    assert!(
        said.contains("only a new overlay can be put on it"),
        "{said}"
    );
}

#[test]
fn what_is_wrong_is_said_in_a_line() {
    let bench = Bench::new();
    let (base, _) = bench.base();
    let refused = |id, path: &Path, format| {
        let error = bench.open_temporary(id, path, format);
        error.err().unwrap().to_string()
    };
    let said = refused("a", &base, None);
    assert!(said.contains("looks like raw: say format=raw"), "{said}");
    let empty = bench.path("empty");
    fs::write(&empty, "").unwrap();
    let said = refused("b", &empty, Some(Format::Raw));
    assert!(said.contains("empty': is empty"), "{said}");
    fs::remove_dir(bench.path("temporary")).unwrap();
    let said = refused("c", &base, Some(Format::Raw));
    let expected = format!(
        "could not make a temporary file in '{}': No such file or directory (os error 2)",
        bench.path("temporary").display()
    );
    assert_eq!(said, expected);
}

#[test]
fn a_disk_that_is_read_only_needs_no_overlay() {
    let bench = Bench::new();
    let (base, _) = bench.base();
    let mut spec = spec("virtio0", &base, Some(Format::Raw));
    spec.image.read_only = true;
    spec.disk.temporary = Some(bench.path("nosuch"));
    assert!(bench.engine.open_disk(spec).unwrap().info().read_only);
}
