//! Subclusters, on simulated files: what lies in one cluster is written, zeroed and given up by
//! itself.

use std::rc::Rc;

use strata_exec::{LocalBoxFuture, mem::SgList};
use strata_storage::{SimFile, error::IoError};

use super::{order::*, resize::resized, support::*};
use crate::{
    below::Below,
    extent::ExtentKind,
    qcow2::{
        CreateOptions, Preallocation,
        layout::{entry::Mapping, geometry::HostCluster},
    },
};

const CLUSTER: u64 = 16 << 10;
const SUBCLUSTER: u64 = 512;

fn extended(clusters: u64) -> CreateOptions {
    CreateOptions {
        extended_l2: true,
        ..with_base(clusters * CLUSTER, CLUSTER)
    }
}

fn below() -> Rc<dyn Below> {
    Rc::new(RawBytes(vec![0xbb; 1 << 20]))
}

/// An image over [`below`].
async fn image(clusters: u64, seed: u64) -> (Rc<SimFile>, Rc<Layer>) {
    let file = sim(seed);
    let layer = new_layer(&file, extended(clusters), SMALL_CACHE, below()).await;
    (file, layer)
}

async fn mapping(layer: &Layer, offset: u64) -> Mapping {
    layer.image.tables.lookup(offset, 1).await.unwrap().mapping
}

/// The host cluster of the guest cluster at `offset`.
async fn place(layer: &Layer, offset: u64) -> Option<HostCluster> {
    match mapping(layer, offset).await {
        Mapping::Data { host, .. } => Some(host),
        Mapping::Unallocated { host } | Mapping::Zero { host } => host.map(|(host, _)| host),
        Mapping::Compressed { .. } => None,
    }
}

async fn assert_clean_image(file: &SimFile, layer: &Layer) {
    layer.image.close().await.unwrap();
    let report = layer.image.check().await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
    check_bytes(&file.bytes(), false);
}

#[test]
fn w1_a_subcluster_is_shown_when_its_data_is_durable() {
    seeds(8, async |exec, seed| {
        let (file, layer) = image(2, seed).await;
        // The cluster has its place, and that is durable; only one more bit will be written.
        layer.write(0, vec![1; 1024]).await.unwrap();
        layer.image.flush().await.unwrap();
        let work = async move {
            layer.write(4096 + 100, vec![2; 300]).await.unwrap();
            layer.image.flush().await.unwrap();
        };
        for bytes in crashes_during(&exec, &file, work).await {
            let layer = reopen(bytes, &below()).await;
            let seen = layer.read_vec(0, CLUSTER as usize).await.unwrap();
            let (written, changed) = (&seen[..1024], &seen[4096 + 100..4096 + 400]);
            assert_eq!(written, [1; 1024]);
            assert!(changed == [2; 300] || changed == [0xbb; 300]);
            let old = [&seen[1024..4096 + 100], &seen[4096 + 400..]].concat();
            assert!(old.iter().all(|&b| b == 0xbb), "old bytes are lost");
            assert_no_corruption(&layer).await;
        }
    });
}

#[test]
fn w1_a_shared_cluster_is_copied_before_the_table_names_the_copy() {
    seeds(4, async |exec, seed| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.qcow2");
        let name = path.to_str().unwrap();
        let options = "extended_l2=on,cluster_size=16k";
        run(
            "qemu-img",
            &["create", "-f", "qcow2", "-o", options, name, "64k"],
        );
        let writes = ["write -P 3 1k 2k", "write -z 4k 1k", "write -P 4 15k 1k"];
        for write in writes {
            run("qemu-io", &["-f", "qcow2", "-c", write, name]);
        }
        run("qemu-img", &["snapshot", "-c", "one", name]);
        let file = sim_with(std::fs::read(&path).unwrap(), seed);
        let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
        let before = layer.read_vec(0, CLUSTER as usize).await.unwrap();
        let work = async move {
            layer.write(1536, vec![9; 700]).await.unwrap();
            layer.image.close().await.unwrap();
        };
        for bytes in crashes_during(&exec, &file, work).await {
            let layer = reopen(bytes, &nothing()).await;
            let seen = layer.read_vec(0, CLUSTER as usize).await.unwrap();
            assert!(seen[1536..2236] == before[1536..2236] || seen[1536..2236] == [9; 700]);
            assert!(seen[..1536] == before[..1536] && seen[2236..] == before[2236..]);
            assert_no_corruption(&layer).await;
        }
        check_bytes(&file.bytes(), false);
    });
}

#[test]
fn many_writers_in_one_cluster() {
    for seed in 0..20 {
        with_seed(seed, |exec, seed| async move {
            let (file, layer) = image(4, seed).await;
            let mut random = Random(seed);
            let mut expected = vec![0xbb; 2 * CLUSTER as usize];
            if random.chance(50) {
                layer.write(CLUSTER, vec![7; 512]).await.unwrap();
                expected[CLUSTER as usize..][..512].fill(7);
            }
            let mut futures: Vec<LocalBoxFuture<'static, ()>> = Vec::new();
            for at in (0..2 * CLUSTER).step_by(SUBCLUSTER as usize) {
                if random.chance(20) {
                    let layer = layer.clone();
                    expected[at as usize..][..SUBCLUSTER as usize].fill(0);
                    futures.push(Box::pin(async move {
                        let (image, below) = (&layer.image, &*layer.below);
                        let zeroed = image.write_zeroes(at, SUBCLUSTER, false, below);
                        zeroed.await.unwrap();
                    }));
                    continue;
                }
                // Two writers in each subcluster, of which neither writes all of his half.
                for at in [at, at + SUBCLUSTER / 2] {
                    let layer = layer.clone();
                    let (skipped, len) = (random.below(100), random.below(150) + 1);
                    let (offset, byte) = (at + skipped, random.below(256) as u8);
                    expected[offset as usize..][..len as usize].fill(byte);
                    futures.push(Box::pin(async move {
                        let bytes = vec![byte; len as usize];
                        layer.write(offset, bytes).await.unwrap();
                    }));
                }
            }
            for _ in 0..3 {
                let layer = layer.clone();
                futures.push(Box::pin(async move { layer.image.flush().await.unwrap() }));
            }
            together(&exec, futures).await;
            assert!(layer.read_vec(0, 2 * CLUSTER as usize).await.unwrap() == expected);
            assert_clean_image(&file, &layer).await;
            // Nobody has been given a cluster for nothing.
            let report = layer.image.check().await.unwrap();
            assert_eq!(report.allocated_clusters, 2);
            assert!(file.bytes().len() as u64 <= report.image_end_offset);
        });
    }
}

#[test]
fn only_what_is_touched_is_copied() {
    with_seed(1, |_, seed| async move {
        let (_, layer) = image(4, seed).await;
        layer.write(CLUSTER + 5000, vec![1; 1000]).await.unwrap();
        let touched = (
            5000 / SUBCLUSTER * SUBCLUSTER,
            6000u64.next_multiple_of(SUBCLUSTER),
        );
        let extents = [
            (0, touched.0, false),
            (touched.0, touched.1 - touched.0, true),
            (touched.1, CLUSTER - touched.1, false),
        ];
        for (start, len, held) in extents {
            let most = CLUSTER - start;
            let extent = layer.image.extent(CLUSTER + start, most).await.unwrap();
            assert_eq!(extent.len, len);
            assert_eq!(extent.kind != ExtentKind::Unallocated, held);
        }
    });
}

#[test]
fn what_is_missing_is_filled_in_where_the_cluster_lies() {
    with_seed(1, |_, seed| async move {
        let (file, layer) = image(4, seed).await;
        layer.write(2048, vec![1; 1024]).await.unwrap();
        let (image, host) = (&layer.image, place(&layer, 2048).await);
        image
            .write_zeroes(4096, 512, true, &*layer.below)
            .await
            .unwrap();
        let data = SgList::from_vec([vec![0; 2048], vec![5; CLUSTER as usize]].concat());
        image
            .write_if_unallocated(0, data, &*layer.below)
            .await
            .unwrap();
        let mut expected = vec![5; CLUSTER as usize + 2048];
        expected[..2048].fill(0);
        expected[2048..3072].fill(1);
        expected[4096..4608].fill(0);
        assert!(layer.read_vec(0, expected.len()).await.unwrap() == expected);
        assert_eq!(place(&layer, 0).await, host);
        assert!(matches!(mapping(&layer, 0).await, Mapping::Zero { .. }));
        assert_clean_image(&file, &layer).await;
        let report = layer.image.check().await.unwrap();
        assert_eq!(report.allocated_clusters, 2);
    });
}

#[test]
fn a_cluster_is_freed_with_the_last_of_its_subclusters() {
    with_seed(1, |_, seed| async move {
        let (file, layer) = image(8, seed).await;
        let below = &*layer.below;
        layer.write(0, vec![1; 3 * 512]).await.unwrap();
        layer.image.flush().await.unwrap();
        let host = place(&layer, 0).await.unwrap();
        for n in [0, 2] {
            layer.image.discard(n * 512, 512, below).await.unwrap();
            assert_eq!(place(&layer, n * 512).await, Some(host));
        }
        // Not a whole one: nothing happens.
        layer.image.discard(512 + 100, 412, below).await.unwrap();
        assert_eq!(place(&layer, 0).await, Some(host));
        layer.image.discard(512, 512, below).await.unwrap();
        assert_eq!(place(&layer, 0).await, None);
        let seen = layer.read_vec(0, 2048).await.unwrap();
        assert!(seen[..1536] == [0; 1536] && seen[1536..] == [0xbb; 512]);
        layer.image.flush().await.unwrap();
        layer.write(CLUSTER, vec![2; 512]).await.unwrap();
        assert_eq!(place(&layer, CLUSTER).await, Some(host));
        assert_clean_image(&file, &layer).await;
    });
}

#[test]
fn discarded_subclusters_give_their_space_back() {
    with_seed(1, |_, seed| async move {
        let (file, layer) = image(2, seed).await;
        let below = &*layer.below;
        layer.write(0, vec![1; CLUSTER as usize]).await.unwrap();
        let host = layer
            .image
            .geometry
            .host_offset(place(&layer, 0).await.unwrap());
        layer.image.discard(4096, 8192, below).await.unwrap();
        let lies = file.bytes()[host as usize..][..CLUSTER as usize].to_vec();
        assert!(lies[..4096] == [1; 4096] && lies[4096..12288] == [0; 8192]);
        assert_eq!(lies[12288..], [1; 4096]);
        // Zeros that may stay do not.
        layer
            .image
            .write_zeroes(0, 512, false, below)
            .await
            .unwrap();
        let lies = file.bytes()[host as usize..][..512].to_vec();
        assert_eq!(lies, [1; 512]);
        assert_eq!(layer.read_vec(0, 512).await.unwrap(), [0; 512]);
        assert_clean_image(&file, &layer).await;
    });
}

#[test]
fn the_file_does_not_grow_by_writing_anew() {
    with_seed(1, |_, seed| async move {
        let (file, layer) = image(16, seed).await;
        let mut random = Random(seed);
        for _ in 0..400 {
            let offset = random.below(16 * CLUSTER / 512) * 512;
            let len = (random.below(40) + 1) * 512;
            let len = len.min(16 * CLUSTER - offset);
            if random.chance(50) {
                layer.write(offset, vec![1; len as usize]).await.unwrap();
            } else {
                let below = &*layer.below;
                layer.image.discard(offset, len, below).await.unwrap();
            }
            layer.image.flush().await.unwrap();
        }
        assert_clean_image(&file, &layer).await;
        // Tables, every cluster of the disk, and one that was freed last.
        assert!(file.bytes().len() as u64 <= (5 + 16 + 1) * CLUSTER);
    });
}

#[test]
fn refcounts_that_were_late_are_put_right() {
    seeds(3, async |exec, seed| {
        let file = sim(seed);
        let options = CreateOptions {
            lazy_refcounts: true,
            ..extended(8)
        };
        let layer = new_layer(&file, options, SMALL_CACHE, below()).await;
        let work = async move {
            for n in 0..4 {
                layer.write(n * 9000, vec![1; 700]).await.unwrap();
                layer.image.flush().await.unwrap();
            }
        };
        for bytes in crashes_during(&exec, &file, work).await {
            let file = sim_with(bytes, 1);
            let layer = open_layer(&file, SMALL_CACHE, below()).await;
            assert_no_corruption(&layer).await;
            for n in 0..4 {
                let seen = layer.read_vec(n * 9000, 700).await.unwrap();
                assert!(seen.iter().all(|&b| b == 1 || b == 0xbb));
            }
        }
        let left = sim_with(file.durable_bytes(), 1);
        let layer = open_layer(&left, SMALL_CACHE, below()).await;
        assert_clean_image(&left, &layer).await;
    });
}

#[test]
fn a_disk_that_ends_within_a_cluster_changes_its_size() {
    seeds(4, async |exec, seed| {
        let old = 5 * CLUSTER + (1 + seed) * 1536;
        let options = CreateOptions {
            size: old,
            ..extended(0)
        };
        // The file below would show through behind the old end, in subclusters of the same cluster.
        let size = if seed % 2 == 0 {
            old + 2 * CLUSTER + 512
        } else {
            2 * CLUSTER + 3 * 512
        };
        let mode = [Preallocation::Off, Preallocation::Metadata][(seed / 2 % 2) as usize];
        resized(&exec, seed, options, below(), size, mode).await;
    });
}

#[test]
fn contradictions_are_errors() {
    with_seed(1, |_, seed| async move {
        let (file, layer) = image(2, seed).await;
        layer.write(0, vec![1; 512]).await.unwrap();
        layer.image.close().await.unwrap();
        let good = file.bytes();
        let be = |at: usize| u64::from_be_bytes(good[at..at + 8].try_into().unwrap());
        let l2 = (be(be(40) as usize) & 0x00ff_ffff_ffff_fe00) as usize;
        let place = be(l2);
        let cases = [
            (place, 1 << 32 | 1, "both allocated and zero"),
            (0, 1, "no cluster"),
            (place | 1, 1, "reserved bits"),
            (1 << 62 | (place & !(1 << 63)), 1 << 35, "subcluster bitmap"),
        ];
        for (descriptor, bitmap, expected) in cases {
            let mut bytes = good.clone();
            bytes[l2..l2 + 8].copy_from_slice(&u64::to_be_bytes(descriptor));
            bytes[l2 + 8..l2 + 16].copy_from_slice(&u64::to_be_bytes(bitmap));
            let file = sim_with(bytes.clone(), 1);
            let layer = open_layer(&file, SMALL_CACHE, below()).await;
            let (image, below) = (&layer.image, &*layer.below);
            let results = [
                layer.read_vec(0, 512).await.map(|_| ()),
                layer.write(1024, vec![2; 512]).await,
                image.write_zeroes(2048, 512, true, below).await,
                image.discard(0, CLUSTER, below).await,
            ];
            for result in results {
                let Err(IoError::Corrupt { what, .. }) = result else {
                    panic!("{expected}: {result:?}");
                };
                assert!(what.contains(expected), "{what}");
                assert!(what.contains("guest offset 0x"), "{what}");
            }
            let report = image.check().await.unwrap();
            assert!(report.corruptions > 0, "{expected}: {report:#?}");
            image.close().await.unwrap();
            assert!(file.bytes() == bytes, "bytes were changed");
        }
    });
}
