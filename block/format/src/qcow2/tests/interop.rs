//! Real files, both ways: what we write QEMU's tools read, and what they write we read.

use std::{cell::RefCell, path::Path, rc::Rc};

use strata_exec::{Executor, LocalBoxFuture, mem::SgList};
use strata_storage::{Access, FileStorage, Storage};

use super::support::*;
use crate::{
    below::Below,
    qcow2::{CreateOptions, OpenOptions, Qcow2, create},
};

pub(super) const SIZES: [u64; 4] = [512, 4096, 65536, 2 << 20];

pub(super) fn name(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(super) async fn open(exec: &Executor, path: &Path, below: Rc<dyn Below>) -> Layer {
    let file = host_file(exec, path, false);
    let image = Qcow2::open(file, OpenOptions::default()).await.unwrap();
    Layer { image, below }
}

/// Writes at random, and returns what the disk then holds.
pub(super) async fn scribble(layer: &Layer, mut expected: Vec<u8>, random: &mut Random) -> Vec<u8> {
    let size = expected.len() as u64;
    let cluster = layer.image.cluster_size();
    for _ in 0..40 {
        let offset = random.below(size / 512) * 512;
        let most = (size - offset).min(3 * cluster);
        let len = random.below(most / 512) * 512 + 512;
        let range = offset as usize..(offset + len) as usize;
        if random.chance(20) {
            let below = &*layer.below;
            let unmap = random.chance(50);
            let image = &layer.image;
            image.write_zeroes(offset, len, unmap, below).await.unwrap();
            expected[range].fill(0);
        } else {
            let bytes = random.bytes(len as usize);
            layer.write(offset, bytes.clone()).await.unwrap();
            expected[range].copy_from_slice(&bytes);
        }
    }
    layer.image.close().await.unwrap();
    // Others look at it while it stays open here.
    layer.image.file().lock(Access::None).unwrap();
    expected
}

#[test]
fn qemu_reads_what_we_write() {
    for (n, cluster) in SIZES.into_iter().enumerate() {
        for version in [2, 3] {
            with_seed(
                n as u64 * 2 + u64::from(version),
                move |exec, seed| async move {
                    let directory = tempfile::tempdir().unwrap();
                    let path = directory.path().join("image.qcow2");
                    let raw = directory.path().join("expected.raw");
                    let size = (cluster * 12 + 1024).max(1 << 20);
                    let file = FileStorage::create(&exec, &path).unwrap();
                    let options = CreateOptions {
                        size,
                        cluster_size: cluster,
                        version,
                        ..CreateOptions::default()
                    };
                    create(Storage::File(Rc::new(file)), options).await.unwrap();
                    assert_clean(&path);
                    let layer = open(&exec, &path, nothing()).await;
                    let expected = vec![0; size as usize];
                    let expected = scribble(&layer, expected, &mut Random(seed)).await;
                    std::fs::write(&raw, &expected).unwrap();
                    assert_clean(&path);
                    let out = run("qemu-img", &["compare", name(&raw), name(&path)]);
                    assert!(out.contains("identical"), "{out}");
                },
            );
        }
    }
}

#[test]
fn we_read_and_go_on_with_what_qemu_writes() {
    for (n, cluster) in SIZES.into_iter().enumerate() {
        for compat in ["0.10", "1.1"] {
            with_seed(50 + n as u64, move |exec, seed| async move {
                let mut random = Random(seed);
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join("image.qcow2");
                let raw = directory.path().join("base.raw");
                let size = (cluster * 12 + 1024).max(1 << 20);
                // Data, and holes that qemu-img leaves unallocated.
                let mut bytes = random.bytes(size as usize);
                let hole = cluster as usize * 2..cluster as usize * 5;
                bytes[hole].fill(0);
                std::fs::write(&raw, &bytes).unwrap();
                let options = format!("compat={compat},cluster_size={cluster}");
                let (from, to) = (name(&raw), name(&path));
                run(
                    "qemu-img",
                    &["convert", "-O", "qcow2", "-o", &options, from, to],
                );
                let layer = open(&exec, &path, nothing()).await;
                assert!(layer.read_all().await == bytes);
                let expected = scribble(&layer, bytes, &mut random).await;
                assert_clean(&path);
                std::fs::write(&raw, &expected).unwrap();
                run("qemu-img", &["compare", from, to]);
                // And QEMU goes on with ours.
                let write = format!("write -P 0x5a {} {}", size - 4096, 4096);
                run("qemu-io", &["-f", "qcow2", "-c", &write, to]);
                assert_clean(&path);
                let layer = open(&exec, &path, nothing()).await;
                let tail = SgList::zeroed(4096);
                layer.read(size - 4096, tail.clone()).await.unwrap();
                assert_eq!(tail.to_vec(), vec![0x5a; 4096]);
            });
        }
    }
}

/// Many requests at once on a file of the host, where reads and flushes end on helper threads.
#[test]
fn many_requests_at_once_on_a_real_file() {
    for cluster in [4096, 65536] {
        with_seed(cluster, move |exec, seed| async move {
            let mut random = Random(seed);
            let directory = tempfile::tempdir().unwrap();
            let (path, raw) = (
                directory.path().join("top.qcow2"),
                directory.path().join("raw"),
            );
            let base = random.bytes(4 << 20);
            let file = FileStorage::create(&exec, &path).unwrap();
            let options = CreateOptions {
                size: 4 << 20,
                cluster_size: cluster,
                ..CreateOptions::default()
            };
            create(Storage::File(Rc::new(file)), options).await.unwrap();
            let below = Rc::new(RawBytes(base.clone()));
            let layer = Rc::new(open(&exec, &path, below).await);
            let expected = Rc::new(RefCell::new(base));
            for _ in 0..20 {
                let mut futures: Vec<LocalBoxFuture<'static, ()>> = Vec::new();
                // Every request has its own 8 KiB slot: clusters are shared, sectors are not.
                for slot in 0..512u64 {
                    if random.chance(80) {
                        continue;
                    }
                    let (layer, expected) = (layer.clone(), expected.clone());
                    let offset = slot * 8192 + random.below(8) * 512;
                    let sectors = 1 + random.below(8) as usize;
                    let bytes = random.bytes(512 * sectors);
                    let range = offset as usize..offset as usize + bytes.len();
                    futures.push(if random.chance(70) {
                        Box::pin(async move {
                            layer.write(offset, bytes.clone()).await.unwrap();
                            expected.borrow_mut()[range].copy_from_slice(&bytes);
                        })
                    } else {
                        Box::pin(async move {
                            let seen = layer.read_vec(offset, bytes.len()).await.unwrap();
                            assert!(seen == expected.borrow()[range]);
                        })
                    });
                }
                for _ in 0..3 {
                    let layer = layer.clone();
                    futures.push(Box::pin(async move { layer.image.flush().await.unwrap() }));
                }
                together(&exec, futures).await;
            }
            assert!(layer.read_all().await == *expected.borrow());
            // Alone, it shows the same bytes to QEMU.
            let all = SgList::from_vec(expected.borrow().clone());
            let image = &layer.image;
            image
                .write_if_unallocated(0, all, &*layer.below)
                .await
                .unwrap();
            image.close().await.unwrap();
            // QEMU wants the file to itself.
            drop(layer);
            assert_clean(&path);
            std::fs::write(&raw, &*expected.borrow()).unwrap();
            run("qemu-img", &["compare", name(&raw), name(&path)]);
        });
    }
}
