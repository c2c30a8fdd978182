//! Compressed clusters, made by qemu-img and by us.

use strata_exec::mem::SgList;
use strata_storage::error::IoError;

use super::{interop, order::*, support::*};
use crate::{
    below::Below,
    qcow2::{CreateOptions, Qcow2, layout::entry::Mapping},
};

const KINDS: [&str; 2] = ["zlib", "zstd"];

/// Bytes that can be compressed to about a third.
pub(super) fn compressible(random: &mut Random, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = random.bytes(len / 3 + 1).repeat(3);
    for chunk in bytes.chunks_mut(64) {
        let third = chunk.len() / 3;
        let first = chunk[0];
        chunk[third..].fill(first);
    }
    bytes.truncate(len);
    bytes
}

#[test]
fn we_read_and_write_what_qemu_has_compressed() {
    for cluster in interop::SIZES {
        for (n, kind) in KINDS.into_iter().enumerate() {
            with_seed(cluster + n as u64, move |exec, seed| async move {
                let mut random = Random(seed);
                let size = (cluster * 6 + 1024).max(256 << 10);
                let mut content = compressible(&mut random, size as usize);
                // Some that qemu-img cannot compress, and some zeros.
                let plain = random.bytes(cluster as usize);
                content[cluster as usize..2 * cluster as usize].copy_from_slice(&plain);
                content[3 * cluster as usize..4 * cluster as usize].fill(0);
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join("image.qcow2");
                std::fs::write(&path, qemu_compressed(&content, cluster, kind)).unwrap();
                let layer = interop::open(&exec, &path, nothing()).await;
                assert!(layer.image.check().await.unwrap().compressed_clusters > 0);
                assert!(layer.read_all().await == content);
                // Sector by sector, from all clusters in turn.
                for n in 0..64 {
                    let at = n * 7919 * 512 % size;
                    let seen = layer.read_vec(at, 512).await.unwrap();
                    assert!(seen == content[at as usize..at as usize + 512]);
                }
                let expected = interop::scribble(&layer, content, &mut random).await;
                assert!(layer.read_all().await == expected);
                assert_clean(&path);
                let raw = directory.path().join("expected.raw");
                std::fs::write(&raw, &expected).unwrap();
                let names = [interop::name(&raw), interop::name(&path)];
                run("qemu-img", &[&["compare"], &names[..]].concat());
            });
        }
    }
}

#[test]
fn what_has_been_unpacked_gives_its_space_back() {
    for kind in KINDS {
        with_seed(1, move |_, seed| async move {
            let content = compressible(&mut Random(seed), 64 * 4096);
            let file = sim_with(qemu_compressed(&content, 4096, kind), seed);
            let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
            let compressed = file.bytes().len();
            for round in 0..4u8 {
                layer.write(0, vec![round; 64 * 4096]).await.unwrap();
                layer.image.close().await.unwrap();
                let image = &layer.image;
                let below = &*layer.below;
                image.discard(0, 64 * 4096, below).await.unwrap();
                image.close().await.unwrap();
            }
            assert!(file.bytes().len() < compressed + 65 * 4096);
            let report = layer.image.check().await.unwrap();
            assert!(report.is_clean(), "{report:#?}");
            check_bytes(&file.bytes(), false);
        });
    }
}

#[test]
fn damaged_streams_are_errors() {
    for kind in KINDS {
        with_seed(1, move |_, seed| async move {
            let mut random = Random(seed);
            let content = compressible(&mut random, 64 * 4096);
            let good = qemu_compressed(&content, 4096, kind);
            let mut failed = 0;
            for _ in 0..100 {
                // Anywhere behind the tables.
                let mut bytes = good.clone();
                let at = 5 * 4096 + random.below(bytes.len() as u64 - 6 * 4096) as usize;
                bytes[at..at + 32].copy_from_slice(&random.bytes(32));
                let layer = open_layer(&sim_with(bytes, seed), SMALL_CACHE, nothing()).await;
                for n in 0..64 {
                    let data = SgList::zeroed(4096);
                    match layer.read(n * 4096, data).await {
                        Ok(()) => {}
                        Err(IoError::Corrupt { what, .. }) => {
                            assert!(what.contains("compressed cluster"), "{what}");
                            failed += 1;
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            }
            // Deflate streams have no checksum: much of the damage is other data.
            assert!(failed > 0, "none of 100 was found");
        });
    }
}

#[test]
fn a_cluster_of_the_file_that_is_used_again_is_unpacked_again() {
    with_seed(1, |_, seed| async move {
        let mut random = Random(seed);
        let content = compressible(&mut random, 64 * 4096);
        let file = sim_with(qemu_compressed(&content, 4096, "zlib"), seed);
        let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
        let Mapping::Compressed { offset, .. } =
            layer.image.tables.lookup(0, 1).await.unwrap().mapping
        else {
            panic!("not compressed");
        };
        layer.read_vec(0, 512).await.unwrap();
        assert!(layer.image.data.keeps_unpacked(offset));
        layer.write(0, vec![1; 64 * 4096]).await.unwrap();
        layer.image.close().await.unwrap();
        assert!(!layer.image.data.keeps_unpacked(offset));
        assert!(layer.read_all().await == vec![1; 64 * 4096]);
    });
}

#[test]
fn qemu_reads_what_we_have_compressed() {
    for cluster in interop::SIZES {
        for (n, kind) in KINDS.into_iter().enumerate() {
            with_seed(cluster + n as u64, move |exec, seed| async move {
                let mut random = Random(seed);
                let size = (cluster * 9 + 1024).max(256 << 10);
                let mut content = compressible(&mut random, size as usize);
                let plain = random.bytes(cluster as usize);
                content[cluster as usize..2 * cluster as usize].copy_from_slice(&plain);
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join("image.qcow2");
                let (name, raw) = (interop::name(&path), directory.path().join("expected.raw"));
                let bits = [1, 2, 16][seed as usize % 3];
                let options =
                    format!("compression_type={kind},cluster_size={cluster},refcount_bits={bits}");
                let len = size.to_string();
                run(
                    "qemu-img",
                    &["create", "-f", "qcow2", "-o", &options, name, &len],
                );
                let layer = interop::open(&exec, &path, nothing()).await;
                for (n, bytes) in content.chunks(cluster as usize).enumerate() {
                    let data = SgList::from_vec(bytes.to_vec());
                    let below = &*layer.below;
                    write_compressed(&layer.image, n as u64 * cluster, data, below).await;
                }
                layer.image.close().await.unwrap();
                let report = layer.image.check().await.unwrap();
                assert!(report.is_clean(), "{report:#?}");
                assert!(report.compressed_clusters > 5, "{report:#?}");
                assert!(layer.read_all().await == content);
                drop(layer);
                assert_clean(&path);
                std::fs::write(&raw, &content).unwrap();
                run("qemu-img", &["compare", interop::name(&raw), name]);
                // Both go on with it.
                let layer = interop::open(&exec, &path, nothing()).await;
                let expected = interop::scribble(&layer, content, &mut random).await;
                drop(layer);
                assert_clean(&path);
                std::fs::write(&raw, &expected).unwrap();
                run("qemu-img", &["compare", interop::name(&raw), name]);
            });
        }
    }
}

/// Writes one cluster compressed, or plain where that takes less space.
async fn write_compressed(image: &Qcow2, offset: u64, data: SgList, below: &dyn Below) {
    let written = match image.pack(&data).await {
        Some(packed) => image.write_packed(offset, packed).await,
        None => image.write(offset, data, below).await,
    };
    written.unwrap();
}

#[test]
fn packed_clusters_survive_crashes() {
    seeds(2, async |exec, seed| {
        let file = sim(seed);
        let options = CreateOptions {
            size: 16 * 4096,
            cluster_size: 4096,
            ..CreateOptions::default()
        };
        let layer = new_layer(&file, options, SMALL_CACHE, nothing()).await;
        let content = |n: u64, round: u64| compressible(&mut Random(n * 8 + round), 4096);
        let work = async move {
            let (image, below) = (&layer.image, &*layer.below);
            for round in 0..3 {
                for n in 0..16 {
                    let data = SgList::from_vec(content(n, round));
                    write_compressed(image, n * 4096, data, below).await;
                }
                image.flush().await.unwrap();
                image.discard(0, 4096, below).await.unwrap();
            }
            image.close().await.unwrap();
        };
        for bytes in crashes_during(&exec, &file, work).await {
            let layer = reopen(bytes, &nothing()).await;
            assert_no_corruption(&layer).await;
            for n in 0..16 {
                let seen = layer.read_vec(n * 4096, 4096).await.unwrap();
                let written = (0..3).any(|round| seen == content(n, round));
                assert!(written || seen == [0; 4096], "cluster {n}");
            }
        }
        check_bytes(&file.bytes(), false);
    });
}
