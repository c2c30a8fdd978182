//! The rules of `docs/ARCHITECTURE.md` on the order of metadata writes, one by one: each of these
//! fails when its rule is broken.

use std::{cell::Cell, future::Future, rc::Rc};

use strata_exec::{Executor, LocalBoxFuture, Queue, mem::SgList, yield_now};
use strata_storage::{SimFile, error::IoError};

use super::support::*;
use crate::{
    backing::Backing,
    below::Below,
    qcow2::{CreateOptions, OpenOptions},
};

const KEEP_GARBAGE: OpenOptions = OpenOptions {
    discard: false,
    ..SMALL_CACHE
};

pub(super) fn base() -> Backing {
    Backing {
        name: "base.raw".into(),
        format: Some("raw".into()),
    }
}

pub(super) fn with_base(size: u64, cluster_size: u64) -> CreateOptions {
    CreateOptions {
        size,
        cluster_size,
        backing: Some(base()),
        ..CreateOptions::default()
    }
}

/// Runs `work` and crashes at every moment of it, in several ways.
pub(super) async fn crashes_during(
    exec: &Rc<Executor>,
    file: &Rc<SimFile>,
    work: impl Future<Output = ()> + 'static,
) -> Vec<Vec<u8>> {
    let crashes = crashes_of_several(exec, vec![file.clone()], work).await;
    crashes.into_iter().flatten().collect()
}

/// The same for files on disks that crash together: what each of them holds then.
pub(super) async fn crashes_of_several(
    exec: &Rc<Executor>,
    files: Vec<Rc<SimFile>>,
    work: impl Future<Output = ()> + 'static,
) -> Vec<Vec<Vec<u8>>> {
    let crash = |seed: u64| {
        let files = files.iter().enumerate();
        files
            .map(|(n, file)| file.crash(seed ^ (n as u64) << 32))
            .collect()
    };
    let done = Rc::new(Cell::new(false));
    let mark = done.clone();
    exec.spawn(Queue::Guest, async move {
        work.await;
        mark.set(true);
    });
    let mut crashes = Vec::new();
    while !done.get() {
        let seed = crashes.len() as u64;
        crashes.extend((0..4).map(|n| crash(seed * 7 + n)));
        yield_now().await;
    }
    crashes.push(crash(0));
    crashes
}

pub(super) async fn reopen(bytes: Vec<u8>, below: &Rc<dyn Below>) -> Rc<Layer> {
    open_layer(&sim_with(bytes, 1), SMALL_CACHE, below.clone()).await
}

/// Only leaks, if anything.
pub(super) async fn assert_no_corruption(layer: &Layer) {
    let report = layer.image.check().await.unwrap();
    assert_eq!(
        (report.corruptions, report.check_errors),
        (0, 0),
        "{report:#?}"
    );
}

pub(super) fn seeds(count: u64, test: impl AsyncFn(Rc<Executor>, u64) + Copy + 'static) {
    for seed in 0..count {
        with_seed(
            seed,
            move |exec, seed| async move { test(exec, seed).await },
        );
    }
}

#[test]
fn w1_old_data_is_durable_before_the_table_names_its_copy() {
    seeds(8, async |exec, seed| {
        let below: Rc<dyn Below> = Rc::new(RawBytes(vec![0xbb; 16384]));
        let file = sim(seed);
        let layer = new_layer(&file, with_base(16384, 4096), SMALL_CACHE, below.clone()).await;
        // The tables exist and are durable; only one more entry will be written.
        layer.write(0, vec![1; 4096]).await.unwrap();
        layer.image.flush().await.unwrap();
        let work = async move {
            layer.write(4096 + 1024, vec![2; 512]).await.unwrap();
            layer.image.flush().await.unwrap();
        };
        for bytes in crashes_during(&exec, &file, work).await {
            let seen = reopen(bytes, &below)
                .await
                .read_vec(4096, 4096)
                .await
                .unwrap();
            assert!(
                seen[..1024].iter().all(|&b| b == 0xbb),
                "the copied head is lost"
            );
            assert!(seen[1024..1536].iter().all(|&b| b == 0xbb) || seen[1024..1536] == [2; 512]);
            assert!(
                seen[1536..].iter().all(|&b| b == 0xbb),
                "the copied tail is lost"
            );
        }
    });
}

#[test]
fn w2_refcounts_are_durable_before_tables_use_the_clusters() {
    seeds(4, async |exec, seed| {
        let below = nothing();
        let file = sim(seed);
        let options = CreateOptions {
            size: 1 << 20,
            cluster_size: 512,
            ..CreateOptions::default()
        };
        let layer = new_layer(&file, options, SMALL_CACHE, below.clone()).await;
        layer.write(0, vec![1; 512]).await.unwrap();
        layer.image.flush().await.unwrap();
        let work = async move {
            for n in 1..40 {
                layer.write(n * 512, vec![2; 512]).await.unwrap();
            }
            layer.image.flush().await.unwrap();
        };
        for bytes in crashes_during(&exec, &file, work).await {
            assert_no_corruption(&*reopen(bytes, &below).await).await;
        }
    });
}

#[test]
fn w3_a_cluster_is_reused_only_when_its_old_entry_is_gone_from_disk() {
    seeds(8, async |exec, seed| {
        let below: Rc<dyn Below> = Rc::new(RawBytes(vec![0xbb; 65536]));
        let file = sim(seed);
        let layer = new_layer(&file, with_base(65536, 4096), SMALL_CACHE, below.clone()).await;
        layer.write(0, vec![1; 4096]).await.unwrap();
        layer.image.flush().await.unwrap();
        let inner = exec.clone();
        let work = async move {
            layer.image.discard(0, 4096, &*layer.below).await.unwrap();
            let mut futures: Vec<LocalBoxFuture<'static, ()>> = Vec::new();
            for n in 1..4 {
                let layer = layer.clone();
                futures.push(Box::pin(async move {
                    let bytes = vec![1 + n as u8; 4096];
                    layer.write(n * 4096, bytes).await.unwrap();
                }));
            }
            let flushed = layer.clone();
            futures.push(Box::pin(async move {
                flushed.image.flush().await.unwrap();
            }));
            together(&inner, futures).await;
            layer.write(8 * 4096, vec![9; 4096]).await.unwrap();
            layer.image.flush().await.unwrap();
        };
        for bytes in crashes_during(&exec, &file, work).await {
            let layer = reopen(bytes, &below).await;
            let seen = layer.read_vec(0, 4096).await.unwrap();
            assert!(
                seen.chunks(512).all(|s| s == [0; 512] || s == [1; 512]),
                "bytes of another cluster, or from below: {:?}",
                &seen[..8]
            );
            assert_no_corruption(&layer).await;
        }
    });
}

#[test]
fn w3_freed_clusters_are_used_again() {
    with_seed(1, |_, seed| async move {
        let file = sim(seed);
        let options = CreateOptions {
            size: 1 << 20,
            cluster_size: 4096,
            ..CreateOptions::default()
        };
        let layer = new_layer(&file, options, SMALL_CACHE, nothing()).await;
        for n in 0..100u64 {
            layer.write(n % 2 * 65536, vec![1; 65536]).await.unwrap();
            layer.image.flush().await.unwrap();
            let old = (n + 1) % 2 * 65536;
            layer
                .image
                .discard(old, 65536, &*layer.below)
                .await
                .unwrap();
            layer.image.flush().await.unwrap();
        }
        layer.image.close().await.unwrap();
        assert!(
            file.bytes().len() < 256 << 10,
            "{} bytes",
            file.bytes().len()
        );
        assert!(layer.image.check().await.unwrap().is_clean());
    });
}

#[test]
fn w3_nothing_is_freed_under_a_reader() {
    with_seed(1, |_, seed| async move {
        let file = sim(seed);
        let below: Rc<dyn Below> = Rc::new(RawBytes(vec![0xbb; 65536]));
        let layer = new_layer(&file, with_base(65536, 4096), SMALL_CACHE, below).await;
        layer.write(0, vec![1; 4096]).await.unwrap();
        let pin = layer.image.pin();
        let extent = layer.image.extent(0, 4096).await.unwrap();
        layer.image.discard(0, 4096, &*layer.below).await.unwrap();
        layer.image.flush().await.unwrap();
        layer.write(4096, vec![2; 8192]).await.unwrap();
        let crate::extent::ExtentKind::Data { host_offset } = extent.kind else {
            panic!("{extent:?}");
        };
        let seen = layer
            .image
            .file()
            .read_vec(host_offset, 4096)
            .await
            .unwrap();
        assert_eq!(seen, vec![1; 4096]);
        drop(pin);
        layer.image.close().await.unwrap();
        assert!(layer.image.check().await.unwrap().is_clean());
    });
}

/// An image whose free clusters hold garbage that looks like table entries.
async fn full_of_garbage(file: &Rc<SimFile>, below: &Rc<dyn Below>) -> Rc<Layer> {
    let options = with_base(1 << 20, 512);
    let layer = new_layer(file, options, KEEP_GARBAGE, below.clone()).await;
    let garbage = 0x8000_0000_0000_0400u64.to_be_bytes().repeat(64);
    for n in 0..30 {
        layer.write(n * 512, garbage.clone()).await.unwrap();
    }
    layer.image.flush().await.unwrap();
    layer
        .image
        .discard(0, 30 * 512, &*layer.below)
        .await
        .unwrap();
    layer.image.close().await.unwrap();
    layer
}

#[test]
fn w4_an_l2_table_is_durable_before_l1_names_it() {
    seeds(8, async |exec, seed| {
        let below: Rc<dyn Below> = Rc::new(RawBytes(vec![0xbb; 1 << 20]));
        let file = sim(seed);
        let layer = full_of_garbage(&file, &below).await;
        let work = async move {
            for n in [9, 12] {
                // Each in an L2 table of its own.
                layer.write(n * 32768, vec![7; 512]).await.unwrap();
            }
            layer.image.flush().await.unwrap();
        };
        for bytes in crashes_during(&exec, &file, work).await {
            let layer = reopen(bytes, &below).await;
            assert_no_corruption(&layer).await;
            for n in [9, 12] {
                let seen = layer.read_vec(n * 32768, 4096).await.unwrap();
                assert!(seen[..512] == [7; 512] || seen[..512] == [0xbb; 512]);
                assert!(seen[512..].iter().all(|&b| b == 0xbb));
            }
        }
    });
}

#[test]
fn w4_a_refcount_block_is_durable_before_the_table_names_it() {
    seeds(3, async |exec, seed| {
        let below = nothing();
        let file = sim(seed);
        // 64 refcounts in a block: there are new ones all the time.
        let options = CreateOptions {
            size: 1 << 20,
            cluster_size: 512,
            refcount_bits: 64,
            ..CreateOptions::default()
        };
        let layer = new_layer(&file, options, SMALL_CACHE, below.clone()).await;
        let work = async move {
            for n in 0..6 {
                layer.write(n * 8192, vec![n as u8; 8192]).await.unwrap();
                layer.image.flush().await.unwrap();
            }
        };
        for bytes in crashes_during(&exec, &file, work).await {
            assert_no_corruption(&*reopen(bytes, &below).await).await;
        }
    });
}

#[test]
fn w4_the_refcount_table_grows_through_crashes() {
    seeds(5, async |exec, seed| {
        let below = nothing();
        let file = sim(seed);
        let options = CreateOptions {
            size: 4 << 20,
            cluster_size: 512,
            refcount_bits: 64,
            ..CreateOptions::default()
        };
        let layer = new_layer(&file, options, SMALL_CACHE, below.clone()).await;
        // 64 blocks of 64 refcounts fill the first table.
        let chunk = 30 << 10;
        for n in 0..66 {
            layer
                .write(n * chunk, vec![1; chunk as usize])
                .await
                .unwrap();
        }
        layer.image.flush().await.unwrap();
        let table_of = |bytes: &[u8]| bytes[48..56].to_vec();
        let old_table = table_of(&file.bytes());
        let grown = layer.clone();
        let work = async move {
            for n in 66..70 {
                let bytes = vec![2; chunk as usize];
                grown.write(n * chunk, bytes).await.unwrap();
            }
            grown.image.flush().await.unwrap();
        };
        // The moments after the header has changed are those that matter.
        let crashes = crashes_during(&exec, &file, work).await;
        let (old, new): (Vec<_>, Vec<_>) = crashes
            .into_iter()
            .partition(|bytes| table_of(bytes) == old_table);
        let some = old.into_iter().step_by(40).chain(new.into_iter().take(40));
        for bytes in some {
            let layer = reopen(bytes, &below).await;
            assert_no_corruption(&layer).await;
            let seen = layer.read_vec(0, 66 * chunk as usize).await.unwrap();
            assert!(seen.iter().all(|&b| b == 1));
        }
        layer.image.close().await.unwrap();
        let clusters = layer.image.file.header().refcount_table_clusters;
        assert!(clusters > 1, "the table did not grow");
        assert!(layer.image.check().await.unwrap().is_clean());
        check_bytes(&file.bytes(), false);
    });
}

#[test]
fn w5_the_backing_file_is_let_go_when_the_data_is_durable() {
    seeds(8, async |exec, seed| {
        let content = Random(seed).bytes(16 * 4096);
        let below: Rc<dyn Below> = Rc::new(RawBytes(content.clone()));
        let file = sim(seed);
        let layer = new_layer(&file, with_base(65536, 4096), SMALL_CACHE, below.clone()).await;
        let data = SgList::from_vec(content.clone());
        let work = async move {
            let image = &layer.image;
            image
                .write_if_unallocated(0, data, &*layer.below)
                .await
                .unwrap();
            image.set_backing(None).await.unwrap();
        };
        for bytes in crashes_during(&exec, &file, work).await {
            let layer = reopen(bytes.clone(), &below).await;
            let layer = if layer.image.backing().is_none() {
                reopen(bytes, &nothing()).await
            } else {
                layer
            };
            assert!(layer.read_all().await == content);
            assert_no_corruption(&layer).await;
        }
    });
}

#[test]
fn w5_the_header_names_the_old_or_the_new_backing_file() {
    seeds(8, async |exec, seed| {
        let below = nothing();
        let file = sim(seed);
        let named = |n: usize, format: &str| Backing {
            name: format!("{}/base.{n}", "directory".repeat(20 * n)).into(),
            format: Some(format.into()),
        };
        let options = CreateOptions {
            size: 1 << 20,
            backing: Some(named(2, "qcow2")),
            ..CreateOptions::default()
        };
        let layer = new_layer(&file, options, SMALL_CACHE, below.clone()).await;
        let steps = [
            Some(named(2, "qcow2")),
            Some(named(1, "raw")),
            Some(named(4, "qcow2")),
            Some(named(5, "vmdk")),
            None,
            Some(named(3, "raw")),
            Some(base()),
        ];
        for pair in steps.windows(2) {
            let (old, new) = (pair[0].clone(), pair[1].clone());
            let (layer, next) = (layer.clone(), new.clone());
            let work = async move { layer.image.set_backing(next).await.unwrap() };
            for bytes in crashes_during(&exec, &file, work).await {
                let seen = reopen(bytes, &below).await.image.backing();
                assert!(seen == old || seen == new, "{seen:?}");
            }
        }
        check_bytes(&file.bytes()[..], false);
    });
}

#[test]
fn w6_nothing_is_written_after_a_metadata_error() {
    with_seed(1, |_, seed| async move {
        let mut stopped = 0;
        for calls in 0..30 {
            let file = sim(seed + calls);
            let below: Rc<dyn Below> = Rc::new(RawBytes(vec![0xbb; 65536]));
            let layer = new_layer(&file, with_base(65536, 4096), SMALL_CACHE, below.clone()).await;
            layer.write(0, vec![1; 4096]).await.unwrap();
            layer.image.flush().await.unwrap();
            file.fail_after(calls);
            let mut failed = false;
            for n in 1..5 {
                failed |= layer.write(n * 4096 + 512, vec![2; 512]).await.is_err();
                failed |= layer.image.flush().await.is_err();
            }
            // The host works again.
            file.fail_after(u64::MAX);
            if layer.image.is_stopped() {
                stopped += 1;
                let changes = file.changes();
                let error = layer.write(0, vec![3; 512]).await.unwrap_err();
                assert!(matches!(error, IoError::Stopped { .. }), "{error}");
                let error = layer.image.flush().await.unwrap_err();
                assert!(matches!(error, IoError::Stopped { .. }), "{error}");
                assert_eq!(file.changes(), changes, "something was written");
            }
            assert_eq!(
                failed,
                layer.image.is_stopped() || calls < 12,
                "{calls} calls"
            );
            let layer = reopen(file.bytes(), &below).await;
            assert_eq!(layer.read_vec(0, 4096).await.unwrap(), vec![1; 4096]);
            assert_no_corruption(&layer).await;
        }
        assert!(stopped > 5, "{stopped}");
    });
}
