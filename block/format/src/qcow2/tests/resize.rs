//! Growing and shrinking: what a disk shows afterwards, and after a crash in the middle.

use std::{path::Path, rc::Rc};

use strata_exec::Executor;

use super::{interop, order::*, support::*};
use crate::{
    below::Below,
    extent::ExtentKind,
    qcow2::{CreateOptions, OpenOptions, Preallocation},
};

/// Whatever a crash left, the disk has its old or its new size, and shows what it should.
async fn check_crashes(crashes: Vec<Vec<u8>>, below: &Rc<dyn Below>, old: &[u8], new: &[u8]) {
    let mut seen_sizes = [0, 0];
    let step = crashes.len() / 40 + 1;
    let last = crashes.last().cloned();
    for bytes in crashes.into_iter().step_by(step).chain(last) {
        let layer = reopen(bytes, below).await;
        assert_no_corruption(&layer).await;
        let seen = layer.read_all().await;
        assert!(seen == old || seen == new, "{} bytes", seen.len());
        seen_sizes[usize::from(seen.len() == new.len())] += 1;
        // Whatever was left behind the end does not show.
        let size = seen.len() as u64 + 60_000 / 512 * 512;
        layer.image.resize(size, &*layer.below).await.unwrap();
        layer.image.close().await.unwrap();
        let again = layer.read_all().await;
        assert!(again[..seen.len()] == seen && again[seen.len()..].iter().all(|&b| b == 0));
        assert_no_corruption(&layer).await;
    }
    assert!(seen_sizes.iter().all(|&n| n > 0), "{seen_sizes:?}");
}

pub(super) async fn resized(
    exec: &Rc<Executor>,
    seed: u64,
    options: CreateOptions,
    below: Rc<dyn Below>,
    size: u64,
    preallocation: Preallocation,
) {
    let file = sim(seed);
    let layer = new_layer(&file, options, SMALL_CACHE, below.clone()).await;
    let old_size = layer.image.virtual_size();
    let mut random = Random(seed);
    for _ in 0..6 {
        let offset = random.below(old_size - 2000);
        layer.write(offset, random.bytes(2000)).await.unwrap();
    }
    let last = old_size - 512;
    layer.write(last, random.bytes(512)).await.unwrap();
    layer.image.flush().await.unwrap();
    let old = layer.read_all().await;
    let mut new = old.clone();
    new.resize(size as usize, 0);
    let changed = layer.clone();
    let work = async move {
        let image = &changed.image;
        let resized = image.resize_with(size, preallocation, &*changed.below);
        resized.await.unwrap();
    };
    let crashes = crashes_during(exec, &file, work).await;
    check_crashes(crashes, &below, &old, &new).await;
    assert!(layer.read_all().await == new);
    layer.image.close().await.unwrap();
    assert!(layer.image.check().await.unwrap().is_clean());
    check_bytes(&file.bytes(), false);
}

#[test]
fn a_disk_grows_through_crashes() {
    seeds(4, async |exec, seed| {
        let version = 2 + (seed % 2) as u32;
        // The L1 table has to grow, and the file below would show through.
        let options = CreateOptions {
            version,
            ..with_base(100 << 10, 512)
        };
        let below: Rc<dyn Below> = Rc::new(RawBytes(vec![0xbb; 110 << 10]));
        let mode = [Preallocation::Off, Preallocation::Metadata][(seed / 2 % 2) as usize];
        resized(&exec, seed, options, below, 600 << 10, mode).await;
    });
}

#[test]
fn what_is_added_gets_places_at_once() {
    for (cluster_size, extended_l2) in [(512, false), (4096, false), (16384, true)] {
        for mode in [Preallocation::Metadata, Preallocation::Falloc] {
            with_seed(1, move |_, seed| async move {
                let file = sim(seed);
                let options = CreateOptions {
                    size: 300 << 10,
                    cluster_size,
                    extended_l2,
                    ..CreateOptions::default()
                };
                // So that what is given up keeps its bytes.
                let open = OpenOptions {
                    discard: false,
                    ..SMALL_CACHE
                };
                let layer = new_layer(&file, options, open, nothing()).await;
                let mut random = Random(seed);
                let bytes = random.bytes(300 << 10);
                // What is given up lies in the middle of the file, and is not cut off.
                let (kept, lost) = bytes.split_at(160 << 10);
                layer.write(160 << 10, lost.to_vec()).await.unwrap();
                layer.write(0, kept.to_vec()).await.unwrap();
                let image = &layer.image;
                // What was there is used again, and must not show.
                image.resize(160 << 10, &*layer.below).await.unwrap();
                let resized = image.resize_with(3 << 20, mode, &*layer.below);
                resized.await.unwrap();
                let mut expected = kept.to_vec();
                expected.resize(3 << 20, 0);
                assert!(layer.read_all().await == expected);
                let mut at = 0;
                while at < 3 << 20 {
                    let placed = image.placed_extent(at, (3 << 20) - at).await;
                    let (extent, place) = placed.unwrap();
                    assert!(place.is_some(), "{at}");
                    let is_data = matches!(extent.kind, ExtentKind::Data { .. });
                    assert!(is_data || extended_l2 && at >= 160 << 10, "{at}");
                    at += extent.len;
                }
                let len = file.bytes().len();
                layer.write(2 << 20, random.bytes(1 << 19)).await.unwrap();
                image.close().await.unwrap();
                assert!(image.check().await.unwrap().is_clean());
                assert_eq!(file.bytes().len(), len, "{cluster_size}");
                check_bytes(&file.bytes(), false);
            });
        }
    }
}

#[test]
fn a_disk_shrinks_through_crashes() {
    seeds(4, async |exec, seed| {
        let version = 2 + (seed % 2) as u32;
        let options = CreateOptions {
            version,
            ..with_base(150 << 10, 512)
        };
        let below: Rc<dyn Below> = Rc::new(RawBytes(vec![0xbb; 100 << 10]));
        resized(&exec, seed, options, below, 41 << 10, Preallocation::Off).await;
    });
}

#[test]
fn what_is_added_reads_as_zeros_over_a_longer_file() {
    for version in [2, 3] {
        for lazy_refcounts in [false, version == 3] {
            with_seed(1, move |_, seed| async move {
                let below: Rc<dyn Below> = Rc::new(RawBytes(vec![0xbb; 1 << 20]));
                let options = CreateOptions {
                    version,
                    lazy_refcounts,
                    ..with_base(10_240, 4096)
                };
                let layer = new_layer(&sim(seed), options, SMALL_CACHE, below).await;
                layer.image.resize(900 << 10, &*layer.below).await.unwrap();
                let seen = layer.read_all().await;
                assert_eq!(seen.len(), 900 << 10);
                assert!(seen[..10_240].iter().all(|&b| b == 0xbb));
                assert!(seen[10_240..].iter().all(|&b| b == 0));
                layer.image.close().await.unwrap();
                assert!(layer.image.check().await.unwrap().is_clean());
            });
        }
    }
}

#[test]
fn a_large_l1_table_lies_in_one_piece() {
    // 64 refcounts in a block: the table needs more blocks than the refcount table has room for.
    for (refcount_bits, size) in [(64, 20u64 << 30), (16, 60 << 30), (1, 100 << 30)] {
        with_seed(1, move |_, seed| async move {
            let file = sim(seed);
            let options = CreateOptions {
                size: 1 << 20,
                cluster_size: 512,
                refcount_bits,
                ..CreateOptions::default()
            };
            let layer = new_layer(&file, options, SMALL_CACHE, nothing()).await;
            layer.write(5000, vec![5; 5000]).await.unwrap();
            layer.image.resize(size, &*layer.below).await.unwrap();
            layer.write(size - 4096, vec![6; 4096]).await.unwrap();
            assert_eq!(layer.read_vec(5000, 5000).await.unwrap(), vec![5; 5000]);
            layer.image.close().await.unwrap();
            assert!(layer.image.check().await.unwrap().is_clean());
            let table = size / (64 * 512) * 8;
            let len = file.bytes().len() as u64;
            // Where the refcount table has to grow, it cuts in two what was free.
            assert!(len < table * 3 + (1 << 20), "{len} bytes");
            check_bytes(&file.bytes(), false);
        });
    }
}

/// What QEMU shows of an image.
fn content(path: &Path) -> Vec<u8> {
    let raw = path.with_extension("out");
    let (from, to) = (interop::name(path), interop::name(&raw));
    run(
        "qemu-img",
        &["convert", "-f", "qcow2", "-O", "raw", from, to],
    );
    std::fs::read(raw).unwrap()
}

#[test]
fn qemu_and_we_resize_each_others_images() {
    for cluster in interop::SIZES {
        for compat in ["0.10", "1.1"] {
            with_seed(cluster, move |exec, seed| async move {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join("image.qcow2");
                let name = interop::name(&path);
                let options = format!("cluster_size={cluster},compat={compat}");
                run(
                    "qemu-img",
                    &["create", "-q", "-f", "qcow2", "-o", &options, name, "1M"],
                );
                let layer = interop::open(&exec, &path, nothing()).await;
                let mut random = Random(seed);
                let mut expected = vec![0; 1 << 20];
                expected = interop::scribble(&layer, expected, &mut random).await;
                for size in [3 << 20, (1 << 20) - 512, 40_960, 9 << 20] {
                    layer.image.resize(size, &*layer.below).await.unwrap();
                    expected.resize(size as usize, 0);
                    assert!(layer.read_all().await == expected);
                    let at = size - 20_480;
                    layer.write(at, vec![7; 20_480]).await.unwrap();
                    expected[at as usize..].fill(7);
                    layer.image.close().await.unwrap();
                    assert_clean(&path);
                    assert!(content(&path) == expected);
                }
                drop(layer);
                run("qemu-img", &["resize", "-q", "--shrink", name, "5M"]);
                run("qemu-img", &["resize", "-q", name, "7M"]);
                expected.resize(5 << 20, 0);
                expected.resize(7 << 20, 0);
                let layer = interop::open(&exec, &path, nothing()).await;
                assert!(layer.read_all().await == expected);
            });
        }
    }
}

#[test]
fn shrinking_gives_the_space_back() {
    with_seed(1, |exec, _| async move {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.qcow2");
        let name = interop::name(&path);
        run("qemu-img", &["create", "-q", "-f", "qcow2", name, "1G"]);
        run(
            "qemu-io",
            &["-c", "write 0 20M", "-c", "write 600M 1M", name],
        );
        let layer = interop::open(&exec, &path, nothing()).await;
        layer.image.resize(1 << 20, &*layer.below).await.unwrap();
        layer.image.close().await.unwrap();
        drop(layer);
        assert_clean(&path);
        let file = std::fs::metadata(&path).unwrap();
        assert!(file.len() < 3 << 20, "{} bytes", file.len());
    });
}

#[test]
fn snapshots_keep_their_size() {
    with_seed(1, |exec, _| async move {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.qcow2");
        let name = interop::name(&path);
        run("qemu-img", &["create", "-q", "-f", "qcow2", name, "1M"]);
        run("qemu-io", &["-c", "write -P 3 0 1M", name]);
        run("qemu-img", &["snapshot", "-c", "one", name]);
        let layer = interop::open(&exec, &path, nothing()).await;
        layer.image.resize(64 << 10, &*layer.below).await.unwrap();
        layer.image.resize(2 << 20, &*layer.below).await.unwrap();
        layer.image.close().await.unwrap();
        drop(layer);
        assert_clean(&path);
        let mut expected = vec![3; 64 << 10];
        expected.resize(2 << 20, 0);
        assert!(content(&path) == expected);
        run("qemu-img", &["snapshot", "-a", "one", name]);
        assert!(content(&path) == vec![3; 1 << 20]);
        assert_clean(&path);
    });
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    with_seed(1, |exec, _| async move {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.qcow2");
        let name = interop::name(&path);
        run(
            "qemu-img",
            &[
                "create",
                "-q",
                "-f",
                "qcow2",
                "-o",
                "compat=0.10",
                name,
                "1M",
            ],
        );
        run("qemu-img", &["snapshot", "-c", "one", name]);
        let before = std::fs::read(&path).unwrap();
        let layer = interop::open(&exec, &path, nothing()).await;
        for (size, why) in [
            (1000, "multiple of 512"),
            (1 << 62, "too large"),
            (2 << 20, "has snapshots"),
        ] {
            let error = layer.image.resize(size, &*layer.below).await.unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        assert_eq!(layer.image.virtual_size(), 1 << 20);
        assert!(std::fs::read(&path).unwrap() == before);
    });
}

#[test]
fn bitmaps_go_with_the_disk() {
    with_seed(1, |_, seed| async move {
        let file = sim(seed);
        let options = CreateOptions {
            size: 1 << 20,
            ..CreateOptions::default()
        };
        let layer = new_layer(&file, options, SMALL_CACHE, nothing()).await;
        layer.image.begin_bitmap_change().await.unwrap();
        layer.add_bitmap("b", 9, 1 << 20);
        layer.write(64 << 10, vec![1; 512]).await.unwrap();
        layer.image.resize(4 << 20, &*layer.below).await.unwrap();
        layer.write(3 << 20, vec![1; 512]).await.unwrap();
        layer.image.close().await.unwrap();
        check_bytes(&file.bytes(), false);
        let again = reopen(file.bytes(), &nothing()).await;
        let bitmap = again.image.bitmaps().find("b").unwrap();
        assert_eq!((bitmap.size(), bitmap.count()), (4 << 20, 1024));
        assert_eq!(bitmap.run_at(3 << 20), (512, true));
    });
}
