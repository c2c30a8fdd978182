//! Bitmaps that QEMU has made, and QEMU on ours.

use std::path::Path;

use serde_json::Value;
use strata_exec::Executor;

use super::*;
use crate::qcow2::{OpenOptions, Qcow2};

/// The dirty ranges as QEMU shows them.
fn qemu_dirty(path: &Path, name: &str) -> Vec<(u64, u64)> {
    let map = format!("--map=qemu:dirty-bitmap:{name}");
    let path = path.to_str().unwrap();
    let server = ["[", "qemu-nbd", "-r", "-f", "qcow2", "-B", name, path, "]"];
    let out = run("nbdinfo", &[&["--json", &map, "--"], &server[..]].concat());
    let runs: Vec<Value> = serde_json::from_str(&out).unwrap();
    let dirty = runs.iter().filter(|run| run["type"] == 1);
    dirty
        .map(|run| {
            let number = |name: &str| run[name].as_u64().unwrap();
            (number("offset"), number("length"))
        })
        .collect()
}

fn qemu_io(path: &Path, commands: &[&str]) {
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    let mut args = vec!["-f", "qcow2"];
    args.extend(commands);
    args.push(path.to_str().unwrap());
    run("qemu-io", &args);
}

async fn open(exec: &Executor, path: &Path) -> Layer {
    let file = host_file(exec, path, false);
    let image = Qcow2::open(file, OpenOptions::default()).await.unwrap();
    let below = nothing();
    Layer { image, below }
}

#[test]
fn both_record_in_the_same_bitmaps() {
    for (seed, options) in [
        (1, "cluster_size=64k"),
        (2, "cluster_size=512"),
        (3, "cluster_size=4k,lazy_refcounts=on"),
        (4, "cluster_size=2M"),
    ] {
        with_seed(seed, move |exec, seed| async move {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("a.qcow2");
            let name = path.to_str().unwrap();
            let size = 40 << 20;
            run(
                "qemu-img",
                &["create", "-q", "-f", "qcow2", "-o", options, name, "40M"],
            );
            run("qemu-img", &["bitmap", "--add", "-g", "512", name, "b"]);
            run(
                "qemu-img",
                &["bitmap", "--add", "-g", "64k", name, "coarse"],
            );
            run("qemu-img", &["bitmap", "--add", "--disable", name, "off"]);
            let mut model = vec![false; size / 512];
            let mut random = Random(seed);
            for round in 0..4 {
                let (start, len) = (random.below(60_000), 1 + random.below(20_000));
                let write = format!("write -P 7 {} {}", start * 512, len * 512);
                qemu_io(&path, &[&write]);
                model[start as usize..(start + len) as usize].fill(true);
                let layer = open(&exec, &path).await;
                assert_eq!(dirty(&bitmap(&layer, "b")), ranges(&model));
                for _ in 0..5 {
                    model[change(&layer, &mut random).await].fill(true);
                }
                layer.image.close().await.unwrap();
                drop(layer);
                assert_clean(&path);
                assert_eq!(qemu_dirty(&path, "b"), ranges(&model), "round {round}");
                assert_eq!(qemu_dirty(&path, "off"), []);
            }
            let coarse = qemu_dirty(&path, "coarse");
            let layer = open(&exec, &path).await;
            assert_eq!(dirty(&bitmap(&layer, "coarse")), coarse);
        });
    }
}

#[test]
fn qemu_takes_bitmaps_that_are_all_dirty_or_large() {
    with_seed(9, |exec, _| async move {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.qcow2");
        let name = path.to_str().unwrap();
        let size: u64 = 8 << 30;
        run(
            "qemu-img",
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-o",
                "cluster_size=4k",
                name,
                "8G",
            ],
        );
        let layer = open(&exec, &path).await;
        layer.image.begin_bitmap_change().await.unwrap();
        for name in ["all", "most", "none"] {
            layer.add_bitmap(name, 9, size);
        }
        bitmap(&layer, "all").set(0..size);
        bitmap(&layer, "most").set(5000..size - 5000);
        layer.image.close().await.unwrap();
        drop(layer);
        assert_clean(&path);
        assert_eq!(qemu_dirty(&path, "all"), [(0, size)]);
        assert_eq!(qemu_dirty(&path, "most"), [(4608, size - 4608 - 4608)]);
        assert_eq!(qemu_dirty(&path, "none"), []);
        // All ones take no clusters: two of bits, and tables.
        assert!(std::fs::metadata(&path).unwrap().len() < 1 << 20);
        qemu_io(&path, &["write 1M 1M"]);
        run("qemu-img", &["bitmap", "--merge", "most", name, "none"]);
        run("qemu-img", &["bitmap", "--remove", name, "most"]);
        let layer = open(&exec, &path).await;
        let none = dirty(&bitmap(&layer, "none"));
        assert_eq!(none, [(4608, size - 4608 - 4608)]);
        layer.write(0, vec![1; 512]).await.unwrap();
        layer.image.close().await.unwrap();
        drop(layer);
        assert_clean(&path);
        assert_eq!(qemu_dirty(&path, "none").len(), 2);
    });
}

#[test]
fn what_was_in_use_when_qemu_or_we_died_is_unusable_for_both() {
    with_seed(10, |exec, _| async move {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.qcow2");
        let name = path.to_str().unwrap();
        run("qemu-img", &["create", "-q", "-f", "qcow2", name, "10M"]);
        run("qemu-img", &["bitmap", "--add", name, "b"]);
        let layer = open(&exec, &path).await;
        layer.write(0, vec![1; 512]).await.unwrap();
        layer.image.flush().await.unwrap();
        drop(layer);
        let info = run("qemu-img", &["info", name]);
        assert!(info.contains("[0]: in-use"), "{info}");
        let layer = open(&exec, &path).await;
        assert!(bitmap(&layer, "b").is_inconsistent());
        layer.write(0, vec![1; 512]).await.unwrap();
        layer.image.close().await.unwrap();
        drop(layer);
        let info = run("qemu-img", &["info", name]);
        assert!(info.contains("[0]: in-use"), "{info}");
        assert_clean(&path);
        // As QEMU's users do it.
        let layer = open(&exec, &path).await;
        layer.image.begin_bitmap_change().await.unwrap();
        layer.image.bitmaps().remove("b");
        layer.image.close().await.unwrap();
        drop(layer);
        let info = run("qemu-img", &["info", name]);
        assert!(!info.contains("bitmaps"), "{info}");
        assert_clean(&path);
    });
}
