//! Other options for an image that exists: what it shows stays, through crashes, too.

use std::{path::Path, rc::Rc, time::UNIX_EPOCH};

use strata_storage::{
    SimFile, Storage,
    error::{Error, Result},
};

use super::{interop, order::*, snapshots::shown, support::*};
use crate::{
    below::Below,
    qcow2::{Amend, CreateOptions, amend},
};

async fn change(storage: &Storage, changes: &Amend, below: &dyn Below) -> Result<()> {
    amend(storage, None, SMALL_CACHE, changes, below, &|_, _| ()).await
}

async fn change_sim(file: &Rc<SimFile>, changes: &Amend, below: &dyn Below) -> Result<()> {
    change(&Storage::Sim(file.clone()), changes, below).await
}

fn version(version: u32) -> Amend {
    Amend {
        version: Some(version),
        ..Amend::default()
    }
}

fn refcount_bits(bits: u32) -> Amend {
    Amend {
        refcount_bits: Some(bits),
        ..Amend::default()
    }
}

fn lazy(on: bool) -> Amend {
    Amend {
        lazy_refcounts: Some(on),
        ..Amend::default()
    }
}

/// What lies below, of which each cluster differs from the others.
fn below(size: u64) -> Rc<dyn Below> {
    Rc::new(RawBytes(Random(size).bytes(size as usize)))
}

/// What the snapshot `name` shows of a copy of the file.
async fn snapshot_of(bytes: &[u8], name: &str, below: &Rc<dyn Below>) -> Vec<u8> {
    let layer = reopen(bytes.to_vec(), below).await;
    let snapshots = layer.image.snapshots().await.unwrap();
    let id = &snapshots.iter().find(|s| s.name == name).unwrap().id;
    layer.image.apply_snapshot(id).await.unwrap();
    layer.image.close().await.unwrap();
    assert_no_corruption(&layer).await;
    layer.read_all().await
}

/// An image of version 3 on a backing file, with zero clusters of every kind: of the disk alone, of
/// a snapshot alone, in a table that both have; with and without a place that they keep. And what
/// it and its snapshot "s" show.
async fn with_zeros(
    file: &Rc<SimFile>,
    below: &Rc<dyn Below>,
    options: CreateOptions,
) -> [Vec<u8>; 2] {
    let cluster = options.cluster_size;
    let layer = new_layer(file, options, SMALL_CACHE, below.clone()).await;
    let zero = async |first: u64, count: u64, unmap: bool| {
        let (offset, len) = (first * cluster, count * cluster);
        let zeroed = layer.image.write_zeroes(offset, len, unmap, &**below);
        zeroed.await.unwrap();
    };
    let write = async |first: u64, count: u64, byte: u8| {
        let bytes = vec![byte; (count * cluster) as usize];
        layer.write(first * cluster, bytes).await.unwrap();
    };
    write(0, 12, 1).await;
    zero(0, 2, false).await;
    zero(2, 2, true).await;
    // Far on: tables that stay shared.
    zero(70, 3, true).await;
    write(80, 2, 2).await;
    zero(80, 1, false).await;
    layer.image.create_snapshot("s", UNIX_EPOCH).await.unwrap();
    let snapshot = layer.read_all().await;
    write(1, 2, 3).await;
    zero(8, 2, false).await;
    zero(4, 1, true).await;
    let disk = layer.read_all().await;
    layer.image.close().await.unwrap();
    [disk, snapshot]
}

fn small(backed: bool) -> CreateOptions {
    let mut options = with_base(100 << 10, 512);
    options.backing = options.backing.filter(|_| backed);
    options
}

#[test]
fn a_downgrade_keeps_what_disk_and_snapshots_show() {
    for backed in [false, true] {
        with_seed(1, move |_, seed| async move {
            let below = if backed { below(90 << 10) } else { nothing() };
            let file = sim(seed);
            let [disk, snapshot] = with_zeros(&file, &below, small(backed)).await;
            change_sim(&file, &version(2), &*below).await.unwrap();
            check_bytes(&file.bytes(), false);
            let layer = open_layer(&file, SMALL_CACHE, below.clone()).await;
            assert_eq!(layer.image.version(), 2);
            assert!(layer.image.check().await.unwrap().is_clean());
            assert!(layer.read_all().await == disk);
            assert!(snapshot_of(&file.bytes(), "s", &below).await == snapshot);

            change_sim(&file, &version(3), &*below).await.unwrap();
            let layer = open_layer(&file, SMALL_CACHE, below.clone()).await;
            assert_eq!(layer.image.version(), 3);
            assert!(layer.read_all().await == disk);
            assert!(snapshot_of(&file.bytes(), "s", &below).await == snapshot);
        });
    }
}

/// A place that a zero cluster keeps may be somebody else's data: zeros must not be put there.
#[test]
fn a_place_that_a_snapshot_shows_is_not_zeroed() {
    with_seed(1, |_, seed| async move {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.qcow2");
        let name = interop::name(&path);
        run("qemu-img", &["create", "-q", "-f", "qcow2", name, "1M"]);
        run("qemu-io", &["-c", "write -P 7 0 128k", name]);
        run("qemu-img", &["snapshot", "-c", "s", name]);
        // QEMU keeps the place, which the snapshot has, too.
        run("qemu-io", &["-c", "write -z 0 64k", name]);
        let file = sim_with(std::fs::read(&path).unwrap(), seed);
        change_sim(&file, &version(2), &*nothing()).await.unwrap();
        let bytes = file.bytes();
        check_bytes(&bytes, false);
        let seen = snapshot_of(&bytes, "s", &nothing()).await;
        assert!(seen[..128 << 10] == vec![7; 128 << 10]);
        let layer = reopen(bytes, &nothing()).await;
        assert!(layer.read_vec(0, 64 << 10).await.unwrap() == vec![0; 64 << 10]);
    });
}

#[test]
fn refcounts_of_every_width() {
    with_seed(1, |_, seed| async move {
        let file = sim(seed);
        let options = CreateOptions {
            size: 200 << 10,
            cluster_size: 512,
            ..CreateOptions::default()
        };
        let layer = new_layer(&file, options, SMALL_CACHE, nothing()).await;
        let content = Random(seed).bytes(150 << 10);
        layer.write(0, content.clone()).await.unwrap();
        layer.image.close().await.unwrap();
        drop(layer);
        for bits in [1, 64, 2, 8, 32, 4, 16, 1, 16] {
            change_sim(&file, &refcount_bits(bits), &*nothing())
                .await
                .unwrap();
            check_bytes(&file.bytes(), false);
            let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
            assert_eq!(1 << layer.image.geometry.refcount_order, bits);
            assert!(layer.image.check().await.unwrap().is_clean());
            assert!(layer.read_all().await.starts_with(&content));
            // What has become free is used again.
            layer.write(0, content.clone()).await.unwrap();
            layer.image.close().await.unwrap();
        }
        let len = file.bytes().len();
        assert!(len < 400 << 10, "{len} bytes");
    });
}

fn survives(options: fn() -> CreateOptions, changes: fn() -> Amend) {
    seeds(3, async move |exec, seed| {
        let below = below(90 << 10);
        let file = sim(seed);
        let [disk, snapshot] = with_zeros(&file, &below, options()).await;
        let (storage, base, changes) = (Storage::Sim(file.clone()), below.clone(), changes());
        let work = async move { change(&storage, &changes, &*base).await.unwrap() };
        let crashes = crashes_during(&exec, &file, work).await;
        let step_by = crashes.len() / 50 + 1;
        let last = crashes.last().cloned();
        for bytes in crashes.into_iter().step_by(step_by).chain(last) {
            let layer = reopen(bytes, &below).await;
            assert_no_corruption(&layer).await;
            assert!(layer.read_all().await == disk, "the disk has changed");
            layer.image.close().await.unwrap();
            let Storage::Sim(file) = layer.image.file() else {
                unreachable!("these tests have simulated files")
            };
            let seen = snapshot_of(&file.bytes(), "s", &below).await;
            assert!(seen == snapshot, "the snapshot has changed");
            layer.write(0, vec![9; 60 << 10]).await.unwrap();
            layer.image.close().await.unwrap();
            assert_no_corruption(&layer).await;
        }
    });
}

#[test]
fn a_crash_during_a_downgrade() {
    survives(|| small(true), || version(2));
}

#[test]
fn a_crash_during_an_upgrade() {
    seeds(3, async move |exec, seed| {
        let file = sim(seed);
        let below = below(90 << 10);
        let options = CreateOptions {
            version: 2,
            ..small(true)
        };
        let layer = new_layer(&file, options, SMALL_CACHE, below.clone()).await;
        layer.write(0, vec![5; 30 << 10]).await.unwrap();
        layer.image.create_snapshot("s", UNIX_EPOCH).await.unwrap();
        layer.write(0, vec![6; 10 << 10]).await.unwrap();
        let disk = layer.read_all().await;
        layer.image.close().await.unwrap();
        drop(layer);
        let (storage, lower) = (Storage::Sim(file.clone()), below.clone());
        let work = async move { change(&storage, &version(3), &*lower).await.unwrap() };
        for bytes in crashes_during(&exec, &file, work).await {
            let layer = reopen(bytes, &below).await;
            assert_no_corruption(&layer).await;
            assert!(layer.image.backing() == Some(base()));
            assert!(layer.read_all().await == disk);
        }
    });
}

#[test]
fn a_crash_while_refcounts_become_wider_or_narrower() {
    survives(|| small(true), || refcount_bits(64));
    survives(|| small(true), || refcount_bits(2));
}

#[test]
fn a_crash_while_lazy_refcounts_come_and_go() {
    survives(|| small(true), || lazy(true));
    let is_lazy = || CreateOptions {
        lazy_refcounts: true,
        ..small(true)
    };
    survives(is_lazy, || lazy(false));
}

#[test]
fn after_an_error_the_image_is_what_it_was() {
    with_seed(1, |_, seed| async move {
        let below = below(90 << 10);
        for changes in [version(2), refcount_bits(64), refcount_bits(8), lazy(true)] {
            for calls in [4, 9, 14, 20, 28, 40, 60, 90] {
                let file = sim(seed);
                let [disk, snapshot] = with_zeros(&file, &below, small(true)).await;
                file.fail_after(calls);
                let _ = change_sim(&file, &changes, &*below).await;
                file.fail_after(u64::MAX);
                let layer = reopen(file.bytes(), &below).await;
                assert_no_corruption(&layer).await;
                assert!(layer.read_all().await == disk);
                assert!(snapshot_of(&file.bytes(), "s", &below).await == snapshot);
            }
        }
    });
}

#[test]
fn a_full_disk_changes_nothing() {
    with_seed(1, |_, seed| async move {
        let below = below(90 << 10);
        for changes in [version(2), refcount_bits(64)] {
            let file = sim(seed);
            let [disk, snapshot] = with_zeros(&file, &below, small(true)).await;
            let mut failed = false;
            for room in 0..8 {
                file.set_room(Some(room));
                failed |= change_sim(&file, &changes, &*below).await.is_err();
                file.set_room(None);
                let layer = reopen(file.bytes(), &below).await;
                assert_no_corruption(&layer).await;
                assert!(layer.read_all().await == disk);
            }
            assert!(failed, "there was room");
            change_sim(&file, &changes, &*below).await.unwrap();
            assert!(snapshot_of(&file.bytes(), "s", &below).await == snapshot);
            check_bytes(&file.bytes(), true);
        }
    });
}

#[test]
fn what_cannot_be_had_changes_nothing() {
    with_seed(1, |_, seed| async move {
        let below = below(90 << 10);
        let file = sim(seed);
        with_zeros(&file, &below, small(true)).await;
        let both = |amend: Amend, version| Amend {
            version: Some(version),
            ..amend
        };
        let other_backing = Amend {
            backing: Some("other".into()),
            ..Amend::default()
        };
        let data_file = Amend {
            data_file: Some("data".into()),
            ..Amend::default()
        };
        let raw = Amend {
            data_file_raw: Some(true),
            ..Amend::default()
        };
        let cases = [
            (
                refcount_bits(1),
                "Cannot decrease refcount entry width to 1 bits",
            ),
            (refcount_bits(3), "must be a power of two"),
            (refcount_bits(128), "must be a power of two"),
            (
                both(refcount_bits(8), 2),
                "Refcount widths other than 16 bits",
            ),
            (both(lazy(true), 2), "Lazy refcounts only supported"),
            (version(4), "the version must be 2 or 3"),
            (other_backing, "Cannot amend the backing file"),
            (data_file, "data-file can only be set"),
            (raw, "data-file-raw cannot be set"),
        ];
        let bytes = file.bytes();
        for (changes, expected) in cases {
            let error = change_sim(&file, &changes, &*below).await.unwrap_err();
            let Error::Image { why, .. } = &error else {
                panic!("{error}")
            };
            assert!(why.starts_with(expected) || why.contains(expected), "{why}");
            assert!(file.bytes() == bytes, "{why}");
        }
    });
}

/// What QEMU says of an image that we have changed, and we of one that it has.
#[test]
fn qemu_and_we_change_each_others_images() {
    with_seed(1, |exec, seed| async move {
        let directory = tempfile::tempdir().unwrap();
        let path: &Path = &directory.path().join("image.qcow2");
        let options = "cluster_size=4k,compat=1.1";
        let (first, second) = super::snapshots::with_snapshots(path, options, 4096, seed);
        run("qemu-io", &["-c", "write -z 0 8k", interop::name(path)]);
        let steps = [
            (refcount_bits(64), "refcount_bits=8"),
            (lazy(true), "lazy_refcounts=off"),
            (
                Amend {
                    refcount_bits: Some(16),
                    ..version(2)
                },
                "compat=1.1,refcount_bits=32",
            ),
        ];
        for (ours, theirs) in steps {
            let file = host_file(&exec, path, false);
            change(&file, &ours, &*nothing()).await.unwrap();
            drop(file);
            assert_clean(path);
            run(
                "qemu-img",
                &["amend", "-f", "qcow2", "-o", theirs, interop::name(path)],
            );
            let layer = interop::open(&exec, path, nothing()).await;
            assert!(layer.image.check().await.unwrap().is_clean());
            drop(layer);
            assert!(shown(path, "first") == first);
            assert!(shown(path, "second") == second);
        }
    });
}
