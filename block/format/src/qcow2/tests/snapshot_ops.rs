//! Making, applying and deleting internal snapshots, with QEMU and through crashes.

use std::{
    path::Path,
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use strata_storage::{
    Access,
    error::{Error, IoError},
};

use super::{interop, order::*, snapshots::shown, support::*};
use crate::{below::Below, qcow2::CreateOptions};

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_700_000_000_500)
}

async fn create(layer: &Layer, name: &str) {
    layer.image.create_snapshot(name, now()).await.unwrap();
}

async fn id_of(layer: &Layer, name: &str) -> String {
    let snapshots = layer.image.snapshots().await.unwrap();
    snapshots.into_iter().find(|s| s.name == name).unwrap().id
}

async fn apply(layer: &Layer, name: &str) {
    let id = id_of(layer, name).await;
    layer.image.apply_snapshot(&id).await.unwrap();
}

async fn delete(layer: &Layer, name: &str) {
    let id = id_of(layer, name).await;
    layer.image.delete_snapshot(&id).await.unwrap();
}

/// Lets QEMU look at the image while it stays open here.
async fn let_others_look(layer: &Layer) {
    layer.image.close().await.unwrap();
    layer.image.file().lock(Access::None).unwrap();
}

/// What a snapshot shows when it is applied to a copy of these bytes.
async fn content_of(bytes: &[u8], name: &str, below: &Rc<dyn Below>) -> Vec<u8> {
    let layer = reopen(bytes.to_vec(), below).await;
    apply(&layer, name).await;
    assert!(layer.image.check().await.unwrap().is_clean());
    layer.read_all().await
}

#[test]
fn qemu_and_we_work_on_each_others_snapshots() {
    for cluster in interop::SIZES {
        for options in ["compat=0.10", "compat=1.1,lazy_refcounts=on"] {
            with_seed(cluster, move |exec, seed| async move {
                both_ways(
                    &exec,
                    cluster,
                    &format!("cluster_size={cluster},{options}"),
                    seed,
                )
                .await;
            });
        }
    }
}

#[test]
fn extended_l2_entries_too() {
    with_seed(1, |exec, seed| async move {
        both_ways(&exec, 65536, "cluster_size=64k,extended_l2=on", seed).await;
    });
}

async fn both_ways(exec: &strata_exec::Executor, cluster: u64, options: &str, seed: u64) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image.qcow2");
    let name = interop::name(&path);
    let size = (cluster * 12).max(1 << 18);
    let create_it = ["create", "-q", "-f", "qcow2", "-o", options, name];
    run("qemu-img", &[&create_it[..], &[&size.to_string()]].concat());
    let mut random = Random(seed);
    let layer = interop::open(exec, &path, nothing()).await;
    let first = interop::scribble(&layer, vec![0; size as usize], &mut random).await;
    create(&layer, "first").await;
    let second = interop::scribble(&layer, first.clone(), &mut random).await;
    drop(layer);
    assert_clean(&path);
    assert!(shown(&path, "first") == first);
    run("qemu-img", &["snapshot", "-c", "second", name]);

    let layer = interop::open(exec, &path, nothing()).await;
    let third = interop::scribble(&layer, second.clone(), &mut random).await;
    create(&layer, "third").await;
    apply(&layer, "first").await;
    assert!(layer.read_all().await == first);
    interop::scribble(&layer, first.clone(), &mut random).await;
    apply(&layer, "second").await;
    assert!(layer.read_all().await == second);
    let_others_look(&layer).await;
    assert!(layer.image.check().await.unwrap().is_clean());
    assert_clean(&path);
    assert!(shown(&path, "first") == first);
    assert!(shown(&path, "second") == second);
    assert!(shown(&path, "third") == third);
    delete(&layer, "second").await;
    interop::scribble(&layer, second.clone(), &mut random).await;
    drop(layer);
    assert_clean(&path);
    run("qemu-img", &["snapshot", "-a", "third", name]);
    run("qemu-img", &["snapshot", "-d", "first", name]);
    assert_clean(&path);

    let layer = interop::open(exec, &path, nothing()).await;
    assert!(layer.read_all().await == third);
    delete(&layer, "third").await;
    assert!(layer.read_all().await == third);
    assert!(layer.image.snapshots().await.unwrap().is_empty());
    layer.image.close().await.unwrap();
    assert!(layer.image.check().await.unwrap().is_clean());
    drop(layer);
    assert_clean(&path);
}

#[test]
fn snapshots_that_come_and_go_take_no_space() {
    with_seed(1, |_, seed| async move {
        let file = sim(seed);
        let options = CreateOptions {
            size: 1 << 20,
            cluster_size: 4096,
            ..CreateOptions::default()
        };
        let layer = new_layer(&file, options, SMALL_CACHE, nothing()).await;
        layer.write(0, vec![1; 200_704]).await.unwrap();
        for n in 0..20u8 {
            create(&layer, "s").await;
            layer.write(0, vec![n; 200_704]).await.unwrap();
            if n % 2 == 0 {
                apply(&layer, "s").await;
            }
            delete(&layer, "s").await;
        }
        layer.image.close().await.unwrap();
        assert!(layer.image.check().await.unwrap().is_clean());
        let len = file.bytes().len();
        assert!(len < 700 << 10, "{len} bytes");
    });
}

#[test]
fn a_snapshot_brings_its_size_back() {
    for version in [2, 3] {
        with_seed(1, move |_, seed| async move {
            let file = sim(seed);
            let options = CreateOptions {
                size: 100 << 10,
                cluster_size: 512,
                version,
                ..CreateOptions::default()
            };
            let layer = new_layer(&file, options, SMALL_CACHE, nothing()).await;
            layer.write(0, vec![1; 100 << 10]).await.unwrap();
            create(&layer, "small").await;
            let resized = layer.image.resize(900 << 10, &*layer.below).await;
            assert_eq!(resized.is_ok(), version == 3);
            if version == 3 {
                layer.write(800 << 10, vec![2; 50 << 10]).await.unwrap();
                create(&layer, "large").await;
                layer.image.resize(10 << 10, &*layer.below).await.unwrap();
            }
            apply(&layer, "small").await;
            assert!(layer.read_all().await == vec![1; 100 << 10]);
            if version == 3 {
                apply(&layer, "large").await;
                assert_eq!(layer.image.virtual_size(), 900 << 10);
                let seen = layer.read_vec(800 << 10, 50 << 10).await.unwrap();
                assert!(seen == vec![2; 50 << 10]);
            }
            layer.image.close().await.unwrap();
            assert!(layer.image.check().await.unwrap().is_clean());
            check_bytes(&file.bytes(), false);
        });
    }
}

#[test]
fn compressed_clusters_and_narrow_refcounts() {
    with_seed(1, |_, seed| async move {
        let content = Random(seed).bytes(4096).repeat(40);
        let file = sim_with(qemu_compressed(&content, 4096, "zlib"), seed);
        let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
        create(&layer, "a").await;
        layer.write(4096 * 3, vec![9; 8192]).await.unwrap();
        apply(&layer, "a").await;
        assert!(layer.read_all().await == content);
        delete(&layer, "a").await;
        layer.image.close().await.unwrap();
        assert!(layer.image.check().await.unwrap().is_clean());

        let file = sim(seed);
        let options = CreateOptions {
            size: 1 << 20,
            refcount_bits: 1,
            ..CreateOptions::default()
        };
        let layer = new_layer(&file, options, SMALL_CACHE, nothing()).await;
        layer.write(0, vec![1; 1 << 20]).await.unwrap();
        let error = layer.image.create_snapshot("no", now()).await.unwrap_err();
        assert!(
            error.to_string().contains("refcounts have 1 bits"),
            "{error}"
        );
        layer.write(0, vec![2; 1 << 20]).await.unwrap();
        layer.image.close().await.unwrap();
        assert!(layer.image.check().await.unwrap().is_clean());
    });
}

/// What the operation under test does.
#[derive(Clone, Copy)]
enum Step {
    Create,
    Apply,
    Delete,
}

/// An image with snapshots "old" and "new" and other content, and what these three show.
async fn prepared(file: &Rc<strata_storage::SimFile>, version: u32) -> (Rc<Layer>, [Vec<u8>; 3]) {
    let options = CreateOptions {
        size: 80 << 10,
        cluster_size: 1024,
        version,
        ..CreateOptions::default()
    };
    let layer = new_layer(file, options, SMALL_CACHE, nothing()).await;
    layer.write(0, vec![1; 40 << 10]).await.unwrap();
    create(&layer, "old").await;
    layer.write(20 << 10, vec![2; 30 << 10]).await.unwrap();
    let new = layer.read_all().await;
    create(&layer, "new").await;
    layer.write(10 << 10, vec![3; 20 << 10]).await.unwrap();
    layer.image.close().await.unwrap();
    let mut old = vec![1; 40 << 10];
    old.resize(80 << 10, 0);
    let active = layer.read_all().await;
    (layer, [old, new, active])
}

fn survives(step: Step) {
    seeds(4, async move |exec, seed| {
        let version = 2 + (seed % 2) as u32;
        let file = sim(seed);
        let (layer, [old, new, active]) = prepared(&file, version).await;
        let work = async move {
            match step {
                Step::Create => create(&layer, "third").await,
                Step::Apply => apply(&layer, "old").await,
                Step::Delete => delete(&layer, "old").await,
            }
        };
        let below = nothing();
        let crashes = crashes_during(&exec, &file, work).await;
        let step_by = crashes.len() / 120 + 1;
        let last = crashes.last().cloned();
        for bytes in crashes.into_iter().step_by(step_by).chain(last) {
            let layer = reopen(bytes, &below).await;
            let report = layer.image.check().await.unwrap();
            // Version 2 has no mark for it, so flags may be missing; that harms nobody.
            let other = |line: &&String| {
                !(version == 2 && line.contains("OFLAG_COPIED") && line.contains("refcount=1"))
            };
            let wrong: Vec<_> = report
                .lines
                .iter()
                .filter(|line| line.starts_with("ERROR"))
                .filter(other)
                .collect();
            assert!(wrong.is_empty(), "{wrong:#?}");
            assert_eq!(report.check_errors, 0);
            let seen = layer.read_all().await;
            let applied = matches!(step, Step::Apply) && seen == old;
            assert!(seen == active || applied, "the disk shows something else");
            let names: Vec<_> = layer.image.snapshots().await.unwrap();
            let names: Vec<_> = names.iter().map(|s| s.name.as_str()).collect();
            let possible: &[&[&str]] = match step {
                Step::Create => &[&["old", "new"], &["old", "new", "third"]],
                Step::Apply => &[&["old", "new"]],
                Step::Delete => &[&["old", "new"], &["new"]],
            };
            assert!(possible.contains(&&names[..]), "{names:?}");
            // All of it can be written, and nothing of a snapshot changes.
            layer.write(0, vec![7; 80 << 10]).await.unwrap();
            layer.image.close().await.unwrap();
            let bytes = sim_bytes(&layer);
            for name in names {
                let shows = match name {
                    "old" => &old,
                    "new" => &new,
                    _ => &active,
                };
                let again = open_layer(&sim_with(bytes.clone(), 1), SMALL_CACHE, nothing()).await;
                apply(&again, name).await;
                assert!(&again.read_all().await == shows, "{name} has changed");
            }
        }
    });
}

fn sim_bytes(layer: &Layer) -> Vec<u8> {
    match layer.image.file() {
        strata_storage::Storage::Sim(file) => file.bytes(),
        _ => unreachable!("these tests have simulated files"),
    }
}

#[test]
fn a_crash_while_a_snapshot_is_made() {
    survives(Step::Create);
}

#[test]
fn a_crash_while_a_snapshot_is_applied() {
    survives(Step::Apply);
}

#[test]
fn a_crash_while_a_snapshot_is_deleted() {
    survives(Step::Delete);
}

/// QEMU sets COPIED flags in the tables of a snapshot when another one is deleted. They say that
/// there is one reference until the snapshot is applied: then that is wrong.
#[test]
fn a_crash_while_tables_with_flags_become_the_active_ones() {
    seeds(3, async |exec, seed| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.qcow2");
        let name = interop::name(&path);
        let options = "compat=0.10,cluster_size=1k";
        run(
            "qemu-img",
            &["create", "-q", "-f", "qcow2", "-o", options, name, "80k"],
        );
        run("qemu-io", &["-c", "write -P 1 0 40k", name]);
        run("qemu-img", &["snapshot", "-c", "first", name]);
        run("qemu-img", &["snapshot", "-c", "second", name]);
        run("qemu-io", &["-c", "write -P 2 0 60k", name]);
        run("qemu-img", &["snapshot", "-d", "first", name]);
        let file = sim_with(std::fs::read(&path).unwrap(), seed);
        let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
        let work = async move { apply(&layer, "second").await };
        for bytes in crashes_during(&exec, &file, work).await {
            let layer = reopen(bytes, &nothing()).await;
            let report = layer.image.check().await.unwrap();
            let missing = |line: &String| line.ends_with("refcount=1");
            let mut errors = report.lines.iter().filter(|line| line.starts_with("ERROR"));
            assert!(errors.all(missing), "{report:#?}");
        }
    });
}

#[test]
fn after_an_error_nothing_is_written() {
    with_seed(1, |_, seed| async move {
        for calls in [3, 8, 12, 16, 20] {
            let file = sim(seed);
            let (layer, [old, new, _]) = prepared(&file, 3).await;
            file.fail_after(calls);
            let failed = layer.image.create_snapshot("third", now()).await.is_err();
            file.fail_after(u64::MAX);
            if failed {
                let changes = file.changes();
                let error = layer.write(0, vec![3; 512]).await.unwrap_err();
                assert!(matches!(error, IoError::Stopped { .. }), "{error}");
                assert_eq!(file.changes(), changes);
            }
            assert!(content_of(&file.bytes(), "old", &nothing()).await == old);
            assert!(content_of(&file.bytes(), "new", &nothing()).await == new);
        }
    });
}

#[test]
fn without_room_there_is_no_snapshot_and_the_disk_goes_on() {
    with_seed(1, |_, seed| async move {
        for version in [2, 3] {
            let mut refused = 0;
            for room in 0..3 {
                let file = sim(seed);
                let (layer, [old, new, mut active]) = prepared(&file, version).await;
                file.set_room(Some(room));
                let made = layer.image.create_snapshot("third", now()).await;
                file.set_room(None);
                let Err(error) = made else { continue };
                if layer.image.is_stopped() {
                    // It was a flush that found no room (rule W6).
                    continue;
                }
                assert!(
                    matches!(error, Error::Io(IoError::NoSpace { .. })),
                    "{error}"
                );
                refused += 1;
                assert_eq!(layer.image.snapshots().await.unwrap().len(), 2);
                layer.write(0, vec![9; 50 << 10]).await.unwrap();
                active[..50 << 10].fill(9);
                assert!(layer.read_all().await == active);
                create(&layer, "third").await;
                layer.write(0, vec![8; 80 << 10]).await.unwrap();
                layer.image.close().await.unwrap();
                let bytes = file.bytes();
                assert!(content_of(&bytes, "third", &nothing()).await == active);
                assert!(content_of(&bytes, "old", &nothing()).await == old);
                assert!(content_of(&bytes, "new", &nothing()).await == new);
                check_bytes(&bytes, true);
            }
            assert!(refused > 0);
        }
    });
}

#[test]
fn qemu_lists_what_we_make() {
    with_seed(1, |exec, _| async move {
        let directory = tempfile::tempdir().unwrap();
        let path: &Path = &directory.path().join("image.qcow2");
        let name = interop::name(path);
        run("qemu-img", &["create", "-q", "-f", "qcow2", name, "1M"]);
        let layer = interop::open(&exec, path, nothing()).await;
        create(&layer, "one").await;
        create(&layer, "zwei").await;
        let_others_look(&layer).await;
        let out = run("qemu-img", &["snapshot", "-l", name]);
        let lines: Vec<_> = out.lines().skip(2).collect();
        assert!(lines[0].starts_with("1         one  "), "{out}");
        assert!(lines[1].starts_with("2         zwei  "), "{out}");
    });
}
