//! Images that are refused, or not written: with a reason, and without a changed byte.

use strata_storage::Storage;

use super::support::*;
use crate::{
    backing::Backing,
    qcow2::{CreateOptions, Damaged, OpenOptions, Qcow2},
};

const READ_ONLY: OpenOptions = OpenOptions {
    read_only: true,
    cache_bytes: 0,
    discard: false,
    damaged: Damaged::Refused,
};

/// An image with some data, as bytes.
async fn image(options: CreateOptions) -> Vec<u8> {
    let file = sim(1);
    let layer = new_layer(&file, options, SMALL_CACHE, nothing()).await;
    let len = layer.image.virtual_size().min(200_000) as usize;
    layer.write(0, vec![1; len]).await.unwrap();
    layer.image.close().await.unwrap();
    file.bytes()
}

fn small() -> CreateOptions {
    CreateOptions {
        size: 1 << 20,
        cluster_size: 4096,
        ..CreateOptions::default()
    }
}

async fn refused(bytes: &[u8], options: OpenOptions, expected: &str) {
    let file = sim_with(bytes.to_vec(), 1);
    let error = match Qcow2::open(Storage::Sim(file.clone()), options).await {
        Ok(_) => panic!("opened, though {expected}"),
        Err(error) => error.to_string(),
    };
    assert!(error.contains(expected), "{error}");
    assert_eq!(error.lines().count(), 1);
    assert!(file.bytes() == bytes, "bytes were changed");
}

fn be64(bytes: &[u8], at: usize) -> usize {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

#[test]
fn nobody_reads_these() {
    with_seed(1, |_, _| async {
        let good = image(small()).await;
        let poke = |at: usize, new: &[u8]| {
            let mut bytes = good.clone();
            bytes[at..at + new.len()].copy_from_slice(new);
            bytes
        };
        let cases: [(usize, &[u8], &str); 14] = [
            (0, b"x", "not a qcow2 image"),
            (4, &[0, 0, 0, 1], "version 1"),
            (20, &[0, 0, 0, 8], "cluster size"),
            (20, &[0, 0, 0, 22], "cluster size"),
            (32, &[0, 0, 0, 1], "encrypted"),
            (36, &[0, 0, 0, 0], "too small"),
            (36, &[0, 0x80, 0, 0], "too large"),
            (40, &[0x7f, 0, 0, 0, 0, 0, 0, 0], "outside the file"),
            (40, &[0, 0, 0, 0, 0, 0, 0, 0], "overlaps the header"),
            (40, &[0, 0, 0, 0, 0, 0, 0x32, 0], "not cluster-aligned"),
            (56, &[0, 0, 0x10, 0], "too large"),
            (79, &[4], "external data file"),
            (79, &[16], "too small for extended L2"),
            (78, &[1], "Unknown incompatible feature: 100"),
        ];
        for (at, new, expected) in cases {
            refused(&poke(at, new), READ_ONLY, expected).await;
            refused(&poke(at, new), SMALL_CACHE, expected).await;
        }
        refused(&poke(100, &[0, 0, 0, 99]), READ_ONLY, "header length").await;
        refused(&poke(96, &[0, 0, 0, 7]), READ_ONLY, "refcount width").await;
        refused(&poke(79, &[8]), READ_ONLY, "compression type").await;
        refused(&good[..40], READ_ONLY, "header length 0").await;
        refused(&good[..5000], READ_ONLY, "outside the file").await;
    });
}

#[test]
fn these_are_read_but_not_written() {
    with_seed(1, |_, _| async {
        let good = image(small()).await;
        let l1 = be64(&good, 40);
        let table = be64(&good, 48);
        let own = |at: usize| good[at..at + 8].to_vec();
        let cases: [(usize, Vec<u8>, &str); 8] = [
            (79, vec![2], "marked corrupt"),
            (60, vec![0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x10, 0], "overlaps"),
            // Tables on each other, misaligned, outside the file, with reserved bits.
            (l1, own(table), "overlaps"),
            (table + 8, own(table), "overlaps"),
            (
                l1,
                (1u64 << 63 | 0x4200).to_be_bytes().to_vec(),
                "not cluster-aligned",
            ),
            (l1, (1u64 << 40).to_be_bytes().to_vec(), "outside the file"),
            (
                table + 8,
                (1u64 << 40).to_be_bytes().to_vec(),
                "outside the file",
            ),
            (l1, (0x4001u64).to_be_bytes().to_vec(), "reserved bits"),
        ];
        for (at, new, expected) in cases {
            let mut bytes = good.clone();
            bytes[at..at + new.len()].copy_from_slice(&new);
            refused(&bytes, SMALL_CACHE, expected).await;
            let file = sim_with(bytes, 1);
            let image = Qcow2::open(Storage::Sim(file), READ_ONLY).await.unwrap();
            let extent = image.extent(0, 4096).await;
            assert!(extent.is_ok() || at == l1, "{expected}");
        }
    });
}

#[test]
fn a_read_only_image_is_not_written() {
    with_seed(1, |_, _| async {
        let bytes = image(small()).await;
        let file = sim_with(bytes.clone(), 1);
        let layer = open_layer(&file, READ_ONLY, nothing()).await;
        assert!(layer.write(0, vec![2; 512]).await.is_err());
        assert!(layer.image.discard(0, 4096, &*layer.below).await.is_err());
        assert!(layer.image.set_backing(None).await.is_err());
        layer.image.close().await.unwrap();
        assert!(file.bytes() == bytes);
    });
}

#[test]
fn requests_outside_the_disk_are_refused() {
    with_seed(1, |_, _| async {
        let file = sim(1);
        let layer = new_layer(&file, small(), SMALL_CACHE, nothing()).await;
        let below = &*layer.below;
        for (offset, len) in [
            ((1 << 20) - 512, 1024),
            (u64::MAX - 511, 512),
            (1 << 20, 512),
        ] {
            let image = &layer.image;
            assert!(layer.write(offset, vec![0; len as usize]).await.is_err());
            assert!(image.write_zeroes(offset, len, true, below).await.is_err());
            assert!(image.discard(offset, len, below).await.is_err());
            assert!(image.extent(offset, len).await.is_err());
        }
    });
}

#[test]
fn unknown_autoclear_bits_are_cleared_before_the_first_write_only() {
    with_seed(1, |_, _| async {
        let mut bytes = image(small()).await;
        bytes[88] = 0x80;
        let file = sim_with(bytes.clone(), 1);
        let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
        layer.image.close().await.unwrap();
        assert!(file.bytes() == bytes, "opening changed the image");
        layer.write(0, vec![9; 512]).await.unwrap();
        let durable = file.durable_bytes();
        assert_eq!(durable[88], 0);
        assert_eq!(layer.read_vec(0, 512).await.unwrap(), vec![9; 512]);
    });
}

#[test]
fn unknown_extensions_survive_a_new_backing_file() {
    with_seed(1, |_, _| async {
        let mut bytes = image(small()).await;
        // An extension that nobody knows, and the end mark.
        let extension = [
            &[0x12, 0x34, 0x56, 0x78, 0, 0, 0, 5][..],
            b"hello\0\0\0",
            &[0; 8],
        ]
        .concat();
        bytes[112..112 + extension.len()].copy_from_slice(&extension);
        let file = sim_with(bytes, 1);
        let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
        let backing = Backing {
            name: "x".repeat(900).into(),
            format: Some("raw".into()),
        };
        layer
            .image
            .set_backing(Some(backing.clone()))
            .await
            .unwrap();
        let again = open_layer(&file, SMALL_CACHE, nothing()).await;
        assert_eq!(again.image.backing(), Some(backing));
        let kept = file.bytes();
        assert!(kept[..512].windows(16).any(|w| w == &extension[..16]));
        let too_long = Backing {
            name: "x".repeat(1024).into(),
            format: None,
        };
        let before = file.bytes();
        assert!(layer.image.set_backing(Some(too_long)).await.is_err());
        assert!(file.bytes() == before);
    });
}

#[test]
fn a_name_that_does_not_fit_small_clusters_is_refused() {
    with_seed(1, |_, _| async {
        let options = CreateOptions {
            cluster_size: 512,
            ..small()
        };
        let file = sim(1);
        let layer = new_layer(&file, options, SMALL_CACHE, nothing()).await;
        let named = |n| {
            Some(Backing {
                name: "y".repeat(n).into(),
                format: Some("qcow2".into()),
            })
        };
        assert!(layer.image.set_backing(named(500)).await.is_err());
        layer.image.set_backing(named(300)).await.unwrap();
        let again = open_layer(&file, SMALL_CACHE, nothing()).await;
        assert_eq!(again.image.backing(), named(300));
    });
}

/// Damaged images give errors, whatever is damaged: never a panic, an endless loop, or a write to
/// a table that is not meant.
#[test]
fn damaged_images_do_no_harm() {
    for seed in 0..300 {
        with_seed(seed, |_, seed| damaged(seed));
    }
}

async fn damaged(seed: u64) {
    let mut random = Random(seed);
    let extended_l2 = random.chance(25);
    let shift = if extended_l2 { 5 } else { random.below(4) };
    let options = CreateOptions {
        size: 1 << 20,
        cluster_size: 512 << shift,
        extended_l2,
        ..CreateOptions::default()
    };
    let cluster = options.cluster_size;
    let mut bytes = image(options).await;
    for _ in 0..random.below(4) + 1 {
        // Mostly the header and the tables behind it.
        let near = if random.chance(70) {
            12 * cluster
        } else {
            bytes.len() as u64
        };
        let at = random.below(near.min(bytes.len() as u64)) as usize;
        bytes[at] = random.below(256) as u8;
    }
    let file = sim_with(bytes, seed);
    let options = OpenOptions {
        read_only: random.chance(30),
        ..SMALL_CACHE
    };
    let Ok(image) = Qcow2::open(Storage::Sim(file.clone()), options).await else {
        return;
    };
    let layer = Layer {
        image,
        below: nothing(),
    };
    let _ = layer.image.check().await;
    let size = layer.image.virtual_size();
    for _ in 0..30 {
        let offset = random.below(size.clamp(512, 4 << 20) / 512) * 512;
        let len = (random.below(32) + 1) * 512;
        let below = &*layer.below;
        let _ = match random.below(5) {
            0 => layer.image.discard(offset, len, below).await,
            1 => layer.image.write_zeroes(offset, len, true, below).await,
            2 => layer.image.flush().await,
            3 => layer.read_vec(offset, len as usize).await.map(|_| ()),
            _ => layer.write(offset, random.bytes(len as usize)).await,
        };
    }
    let _ = layer.image.close().await;
}
