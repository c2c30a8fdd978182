use std::path::{Path, PathBuf};

use strata_exec::mem::SgList;
use strata_graph::{
    DiskOptions, Format,
    chain::ImageOptions,
    disk::{Disk, Op},
};

use super::Bench;
use crate::{
    api::{
        BitmapChange, BitmapInfo, BitmapRef, BlockDirtyBitmap, BlockDirtyBitmapAdd,
        BlockDirtyBitmapMerge, BlockExportAdd, BlockExportDel, BlockdevSnapshotSync, Cmd,
        ExportType, NbdServerStart, Reply,
    },
    engine::DiskSpec,
};

const ADD: BitmapChange = BitmapChange::Add {
    granularity: None,
    persistent: false,
    disabled: false,
};

const PERSISTENT: BitmapChange = BitmapChange::Add {
    granularity: Some(512),
    persistent: true,
    disabled: false,
};

/// The command that makes `change` of the bitmap `name` of `node`.
fn command(node: String, name: String, change: BitmapChange) -> Cmd {
    let bitmap = BlockDirtyBitmap {
        node: node.clone(),
        name: name.clone(),
    };
    match change {
        BitmapChange::Add {
            granularity,
            persistent,
            disabled,
        } => Cmd::BlockDirtyBitmapAdd(BlockDirtyBitmapAdd {
            node,
            name,
            granularity,
            persistent: Some(persistent),
            disabled: Some(disabled),
        }),
        BitmapChange::Remove => Cmd::BlockDirtyBitmapRemove(bitmap),
        BitmapChange::Clear => Cmd::BlockDirtyBitmapClear(bitmap),
        BitmapChange::Record(true) => Cmd::BlockDirtyBitmapEnable(bitmap),
        BitmapChange::Record(false) => Cmd::BlockDirtyBitmapDisable(bitmap),
        BitmapChange::Merge(bitmaps) => Cmd::BlockDirtyBitmapMerge(BlockDirtyBitmapMerge {
            node,
            target: name,
            bitmaps,
        }),
    }
}

impl Bench {
    fn bitmap_disk(&self, id: &str, path: &Path, format: Format, read_only: bool) -> Disk {
        let spec = DiskSpec {
            path: path.to_owned(),
            image: ImageOptions {
                format: Some(format),
                read_only,
                discard: true,
                node_name: Some(format!("{id}-node")),
                ..Default::default()
            },
            disk: DiskOptions {
                id: id.to_owned(),
                discard: true,
                ..Default::default()
            },
        };
        self.engine.open_disk(spec).unwrap()
    }

    fn raw(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, vec![7; 1 << 20]).unwrap();
        path
    }

    /// The error's text, or nothing.
    fn bitmap(&self, node: &str, name: &str, change: BitmapChange) -> String {
        let (node, name) = (node.to_owned(), name.to_owned());
        let result = self.command(command(node, name, change));
        result.err().map(|error| error.desc).unwrap_or_default()
    }

    fn merge(&self, node: &str, target: &str, sources: &[(Option<&str>, &str)]) -> String {
        let source = |&(node, name): &(Option<&str>, &str)| BitmapRef {
            node: node.map(str::to_owned),
            name: name.to_owned(),
        };
        let sources = sources.iter().map(source).collect();
        self.bitmap(node, target, BitmapChange::Merge(sources))
    }

    fn bitmaps(&self, disk: &str) -> Vec<BitmapInfo> {
        let Ok(Reply::Block(disks)) = self.command(Cmd::QueryBlock) else {
            panic!("query-block fails");
        };
        let mut disks = disks.into_iter();
        let disk = disks.find(|info| info.device == disk).unwrap();
        disk.inserted.unwrap().dirty_bitmaps
    }

    fn count(&self, disk: &str, name: &str) -> u64 {
        let bitmaps = self.bitmaps(disk);
        let bitmap = bitmaps.iter().find(|info| info.name == name);
        bitmap.unwrap_or_else(|| panic!("no {name}")).count
    }
}

#[test]
fn every_format_records_writes_zeroes_and_discards() {
    for format in [Format::Raw, Format::Qcow2, Format::Qed] {
        let bench = Bench::new();
        let path = bench.path("a");
        match format {
            Format::Raw => drop(bench.raw("a")),
            Format::Qcow2 => drop(bench.create("a")),
            Format::Qed => {
                let name = path.to_str().unwrap();
                let args = ["create", "-q", "-f", "qed", name, "1M"];
                let status = std::process::Command::new("qemu-img").args(args).status();
                assert!(status.unwrap().success());
            }
        }
        let disk = bench.bitmap_disk("d", &path, format, false);
        let add = |granularity: u32, disabled| BitmapChange::Add {
            granularity: Some(granularity),
            persistent: false,
            disabled,
        };
        assert_eq!(bench.bitmap("d", "b", add(512, false)), "");
        assert_eq!(bench.bitmap("d-node", "off", add(65536, true)), "");
        bench.write(&disk, 1024, vec![1; 1024]).unwrap();
        assert_eq!(bench.count("d", "b"), 1024);
        let run = |op, offset, len| bench.run(&disk, op, offset, len, SgList::empty()).unwrap();
        run(Op::WriteZeroes { unmap: true }, 65536, 512);
        assert_eq!(bench.count("d", "b"), 1536);
        run(Op::Discard, 131_072, 65536);
        assert_eq!(bench.count("d", "b"), 1536 + 65536);
        assert_eq!(bench.count("d", "off"), 0);
        assert_eq!(bench.merge("d", "off", &[(None, "b")]), "");
        assert_eq!(bench.count("d", "off"), 3 * 65536);
        assert_eq!(bench.bitmap("d", "b", BitmapChange::Record(false)), "");
        bench.write(&disk, 0, vec![1; 512]).unwrap();
        assert_eq!(bench.count("d", "b"), 1536 + 65536);
        assert_eq!(bench.bitmap("d", "b", BitmapChange::Clear), "");
        assert_eq!(bench.bitmap("d", "b", BitmapChange::Record(true)), "");
        bench.write(&disk, 0, vec![1; 512]).unwrap();
        assert_eq!(bench.count("d", "b"), 512);
        let names: Vec<_> = bench.bitmaps("d").into_iter().map(|b| b.name).collect();
        assert_eq!(names, ["off", "b"]);
        assert_eq!(bench.bitmap("d", "b", BitmapChange::Remove), "");
        assert_eq!(bench.bitmaps("d").len(), 1);
    }
}

#[test]
fn what_cannot_be_is_refused_in_qemus_words() {
    let bench = Bench::new();
    bench.bitmap_disk("r", &bench.raw("r"), Format::Raw, false);
    bench.bitmap_disk("q", &bench.create("q"), Format::Qcow2, false);
    let gone = "Cannot find device='x' nor node-name='x'";
    assert_eq!(bench.bitmap("x", "b", ADD), gone);
    assert_eq!(
        bench.bitmap("x", "b", BitmapChange::Clear),
        "Node 'x' not found"
    );
    assert_eq!(bench.bitmap("r", "", ADD), "Bitmap name cannot be empty");
    let long = "x".repeat(1024);
    assert!(
        bench
            .bitmap("r", &long, ADD)
            .starts_with("Bitmap name too long")
    );
    for granularity in [0, 256, 1000] {
        let change = BitmapChange::Add {
            granularity: Some(granularity),
            persistent: false,
            disabled: false,
        };
        assert_eq!(
            bench.bitmap("r", "b", change),
            "Granularity must be power of 2 and at least 512"
        );
    }
    assert_eq!(
        bench.bitmap("r", "b", PERSISTENT),
        "Can't store persistent bitmaps to r: Operation not supported"
    );
    assert_eq!(bench.bitmap("r", "b", ADD), "");
    assert_eq!(bench.bitmap("r", "b", ADD), "Bitmap already exists: b");
    assert_eq!(
        bench.bitmap("r", "c", BitmapChange::Remove),
        "Dirty bitmap 'c' not found"
    );
    assert_eq!(bench.bitmap("q", "p", PERSISTENT), "");
    let sizes = bench.merge("q", "p", &[(Some("r"), "b")]);
    assert!(
        sizes.starts_with("Bitmaps are of different sizes"),
        "{sizes}"
    );
    assert_eq!(
        bench.merge("q", "p", &[(None, "b")]),
        "Dirty bitmap 'b' not found"
    );
    assert_eq!(
        bench.merge("q", "p", &[(Some("x"), "b")]),
        "Node 'x' not found"
    );
}

#[test]
fn persistent_bitmaps_come_back_and_are_read_only_where_the_image_is() {
    let path;
    let bench = Bench::new();
    {
        path = bench.create("q");
        let disk = bench.bitmap_disk("q", &path, Format::Qcow2, false);
        assert_eq!(bench.bitmap("q", "p", PERSISTENT), "");
        assert_eq!(bench.bitmap("q", "t", ADD), "");
        bench.write(&disk, 4096, vec![1; 512]).unwrap();
        assert!(bench.engine.shut_down().is_empty());
    }
    bench.bitmap_disk("ro", &path, Format::Qcow2, true);
    let [info] = &bench.bitmaps("ro")[..] else {
        panic!("one bitmap is stored");
    };
    let expected = BitmapInfo {
        name: "p".into(),
        recording: true,
        persistent: true,
        inconsistent: false,
        busy: false,
        granularity: 512,
        count: 512,
    };
    assert_eq!(*info, expected);
    let refused = "Bitmap 'p' is readonly and cannot be modified";
    for change in [BitmapChange::Clear, BitmapChange::Remove] {
        assert_eq!(bench.bitmap("ro", "p", change), refused);
    }
    assert_eq!(bench.bitmap("ro", "p", BitmapChange::Record(false)), "");
    assert!(bench.bitmap("ro", "n", PERSISTENT).contains("read-only"));
    assert_eq!(bench.bitmap("ro", "n", ADD), "");
    assert_eq!(bench.merge("ro", "n", &[(None, "p")]), "");
    assert!(bench.engine.shut_down().is_empty());
}

#[test]
fn a_snapshot_stores_the_bitmaps_of_the_old_top() {
    let bench = Bench::new();
    let path = bench.create("q");
    let disk = bench.bitmap_disk("q", &path, Format::Qcow2, false);
    assert_eq!(bench.bitmap("q", "p", PERSISTENT), "");
    bench.write(&disk, 0, vec![1; 512]).unwrap();
    let snapshot = Cmd::BlockdevSnapshotSync(BlockdevSnapshotSync {
        device: Some("q".to_owned()),
        snapshot_file: bench.path("over").to_str().unwrap().to_owned(),
        ..BlockdevSnapshotSync::default()
    });
    bench.command(snapshot).unwrap();
    bench.write(&disk, 8192, vec![1; 512]).unwrap();
    assert!(bench.bitmaps("q").is_empty());
    // Already now, whatever becomes of this program.
    let copy = bench.path("copy");
    std::fs::copy(&path, &copy).unwrap();
    bench.bitmap_disk("copy", &copy, Format::Qcow2, true);
    assert_eq!(bench.count("copy", "p"), 512);
    // It is named by its node, and does not record any more.
    assert_eq!(
        bench.bitmap("q-node", "p", BitmapChange::Clear),
        "Bitmap 'p' is readonly and cannot be modified"
    );
    assert!(bench.engine.shut_down().is_empty());
}

#[test]
fn a_bitmap_that_was_in_use_can_only_be_removed() {
    let bench = Bench::new();
    let path = bench.create("q");
    let disk = bench.bitmap_disk("q", &path, Format::Qcow2, false);
    assert_eq!(bench.bitmap("q", "p", PERSISTENT), "");
    bench.engine.shut_down();
    drop(disk);
    let disk = bench.bitmap_disk("q", &path, Format::Qcow2, false);
    bench.write(&disk, 0, vec![1; 512]).unwrap();
    let copy = bench.path("copy");
    std::fs::copy(&path, &copy).unwrap();
    bench.bitmap_disk("c", &copy, Format::Qcow2, false);
    let info = &bench.bitmaps("c")[0];
    assert!(info.inconsistent && !info.recording && info.persistent);
    for change in [BitmapChange::Clear, BitmapChange::Record(true)] {
        assert_eq!(
            bench.bitmap("c", "p", change),
            "Bitmap 'p' is inconsistent and cannot be used"
        );
    }
    assert_eq!(bench.bitmap("c", "p", BitmapChange::Remove), "");
    assert!(bench.engine.shut_down().is_empty());
    bench.bitmap_disk("c", &copy, Format::Qcow2, true);
    assert!(bench.bitmaps("c").is_empty());
}

#[test]
fn exported_bitmaps_are_busy_until_the_export_is_gone() {
    let bench = Bench::new();
    bench.bitmap_disk("q", &bench.create("q"), Format::Qcow2, false);
    for name in ["a", "b"] {
        assert_eq!(bench.bitmap("q", name, ADD), "");
    }
    let address = strata_storage::nbd::wire::Address::Unix(bench.path("sock"));
    let export = |cmd| {
        let result = bench.command(cmd);
        result.err().map(|error| error.desc).unwrap_or_default()
    };
    let start = Cmd::NbdServerStart(NbdServerStart::at(address));
    assert_eq!(export(start), "");
    let add = |id: &str, writable, bitmaps: &[&str]| {
        let reference = |name: &&str| BitmapRef {
            node: None,
            name: (*name).to_owned(),
        };
        export(Cmd::BlockExportAdd(Box::new(BlockExportAdd {
            name: Some(id.to_owned()),
            writable: Some(writable),
            bitmaps: Some(bitmaps.iter().map(reference).collect()),
            ..BlockExportAdd::new(ExportType::Nbd, id, "q")
        })))
    };
    let read_only = "Enabled bitmap 'a' incompatible with readonly export";
    assert_eq!(add("e", false, &["a"]), read_only);
    assert_eq!(add("e", true, &["c"]), "Bitmap 'c' is not found");
    // The first one is let go again.
    assert_eq!(add("e", true, &["a", "c"]), "Bitmap 'c' is not found");
    assert_eq!(add("e", true, &["a"]), "");
    let busy = "Bitmap 'a' is currently in use by another operation and cannot be used";
    assert_eq!(add("f", true, &["a"]), busy);
    for change in [
        BitmapChange::Clear,
        BitmapChange::Remove,
        BitmapChange::Record(false),
    ] {
        assert_eq!(bench.bitmap("q", "a", change), busy);
    }
    assert_eq!(bench.merge("q", "b", &[(None, "a")]), busy);
    assert!(bench.bitmaps("q")[1].busy);
    assert_eq!(bench.bitmap("q", "b", BitmapChange::Record(false)), "");
    assert_eq!(add("f", false, &["b"]), "");
    let delete = Cmd::BlockExportDel(BlockExportDel {
        id: "e".to_owned(),
        mode: None,
    });
    assert_eq!(export(delete), "");
    bench.poll_until(|| !bench.bitmaps("q")[1].busy);
    assert_eq!(bench.bitmap("q", "a", BitmapChange::Remove), "");
}
