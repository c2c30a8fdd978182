//! Persistent dirty bitmaps: kept, recorded in, and never trusted after a crash.

mod crash;
mod hostile;
mod interop;

use std::rc::Rc;

use strata_storage::SimFile;

use super::support::*;
use crate::{bitmap::DirtyBitmap, qcow2::CreateOptions};

/// A new image of `size` bytes with a persistent bitmap "b" of units of 512 bytes.
async fn with_bitmap(file: &Rc<SimFile>, cluster_size: u64, size: u64, lazy: bool) -> Rc<Layer> {
    let options = CreateOptions {
        size,
        cluster_size,
        lazy_refcounts: lazy,
        ..CreateOptions::default()
    };
    let layer = new_layer(file, options, SMALL_CACHE, nothing()).await;
    layer.image.begin_bitmap_change().await.unwrap();
    layer.add_bitmap("b", 9, size);
    layer
}

fn bitmap(layer: &Layer, name: &str) -> Rc<DirtyBitmap> {
    layer.image.bitmaps().find(name).expect("the bitmap exists")
}

/// The dirty ranges of a bitmap, as offset and length.
fn dirty(bitmap: &DirtyBitmap) -> Vec<(u64, u64)> {
    let mut at = 0;
    let mut ranges = Vec::new();
    for (len, dirty) in bitmap.runs(0, bitmap.size(), usize::MAX) {
        if dirty {
            ranges.push((at, len));
        }
        at += len;
    }
    ranges
}

/// What [`dirty`] is to say: sectors that are.
fn ranges(sectors: &[bool]) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for (n, _) in sectors.iter().enumerate().filter(|(_, dirty)| **dirty) {
        let at = n as u64 * 512;
        match ranges.last_mut() {
            Some((start, len)) if *start + *len == at => *len += 512,
            _ => ranges.push((at, 512)),
        }
    }
    ranges
}

/// One random change, and the sectors that it touches.
async fn change(layer: &Layer, random: &mut Random) -> std::ops::Range<usize> {
    let size = layer.image.virtual_size();
    let start = random.below(size / 512);
    let len = 1 + random.below((size / 512 - start).min(40));
    let (offset, bytes) = (start * 512, len * 512);
    let (image, below) = (&layer.image, &*layer.below);
    let recorded = layer.record(offset, bytes);
    match random.below(4) {
        0 => image.write_zeroes(offset, bytes, true, below).await,
        1 => image.discard(offset, bytes, below).await,
        _ => layer.write(offset, random.bytes(bytes as usize)).await,
    }
    .unwrap();
    drop(recorded);
    start as usize..(start + len) as usize
}

#[test]
fn what_is_recorded_is_what_was_changed_also_after_opening_again() {
    for (seed, cluster, lazy) in [(1, 512, false), (2, 4096, true), (3, 65536, false)] {
        with_seed(seed, move |_, seed| async move {
            let mut random = Random(seed);
            let size = 3 << 20;
            let file = sim(seed);
            let mut layer = with_bitmap(&file, cluster, size, lazy).await;
            let mut model = vec![false; size as usize / 512];
            for round in 0..30 {
                for _ in 0..random.below(8) {
                    let changed = change(&layer, &mut random).await;
                    model[changed].fill(true);
                }
                match random.below(5) {
                    0 => {
                        layer.image.begin_bitmap_change().await.unwrap();
                        bitmap(&layer, "b").clear();
                        model.fill(false);
                    }
                    1 => {
                        let seen = layer.read_vec(0, 4096).await.unwrap();
                        // Stores what the layer does not hold: nothing changes.
                        let data = strata_exec::mem::SgList::from_vec(seen);
                        let image = &layer.image;
                        let done = image.write_if_unallocated(0, data, &*layer.below);
                        done.await.unwrap();
                    }
                    _ => {}
                }
                assert_eq!(dirty(&bitmap(&layer, "b")), ranges(&model));
                layer.image.close().await.unwrap();
                let report = layer.image.check().await.unwrap();
                assert!(report.is_clean(), "{report:#?}");
                if round % 3 > 0 {
                    layer = open_layer(&file, SMALL_CACHE, nothing()).await;
                }
                assert_eq!(dirty(&bitmap(&layer, "b")), ranges(&model));
            }
            check_bytes(&file.bytes(), false);
        });
    }
}

#[test]
fn storing_again_and_again_takes_no_more_space() {
    with_seed(5, |_, seed| async move {
        let file = sim(seed);
        let mut layer = with_bitmap(&file, 512, 4 << 20, false).await;
        layer.write(0, vec![1; 1 << 20]).await.unwrap();
        let mut longest = 0;
        for round in 0..200u64 {
            let offset = round % 100 * 512 * 7;
            layer.write(offset, vec![2; 512]).await.unwrap();
            layer.image.close().await.unwrap();
            layer = open_layer(&file, SMALL_CACHE, nothing()).await;
            let len = file.bytes().len();
            match round {
                0..5 => longest = longest.max(len),
                _ => assert!(len <= longest, "round {round}: {len} of {longest}"),
            }
        }
        assert!(layer.image.check().await.unwrap().is_clean());
    });
}

#[test]
fn what_found_no_room_is_stored_when_there_is_some() {
    for (seed, lazy) in [(1, false), (2, true)] {
        with_seed(seed, move |_, seed| async move {
            let file = sim(seed);
            let layer = with_bitmap(&file, 4096, 1 << 20, lazy).await;
            layer.write(0, vec![1; 512]).await.unwrap();
            layer.image.flush().await.unwrap();
            file.set_room(Some(0));
            let error = layer.image.close().await.unwrap_err().to_string();
            assert!(
                error.contains("dirty bitmaps could not be stored"),
                "{error}"
            );
            assert!(error.contains("no space left"), "{error}");
            file.set_room(None);
            // Nothing is written meanwhile.
            layer.image.close().await.unwrap();
            let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
            assert_eq!(dirty(&bitmap(&layer, "b")), [(0, 512)]);
            assert!(layer.image.check().await.unwrap().is_clean());
        });
    }
}

#[test]
fn a_disabled_bitmap_stays_as_it_is_and_a_removed_one_leaves_nothing() {
    with_seed(6, |_, seed| async move {
        let file = sim(seed);
        let layer = with_bitmap(&file, 4096, 1 << 20, false).await;
        layer.write(8192, vec![1; 512]).await.unwrap();
        bitmap(&layer, "b").set_recording(false);
        layer.write(0, vec![1; 512]).await.unwrap();
        layer.image.close().await.unwrap();
        let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
        let stored = bitmap(&layer, "b");
        assert!(!stored.is_recording() && stored.is_persistent());
        layer.write(4096, vec![1; 512]).await.unwrap();
        assert_eq!(dirty(&stored), [(8192, 512)]);
        layer.image.bitmaps().remove("b");
        layer.image.close().await.unwrap();
        let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
        assert!(layer.image.bitmaps().list().is_empty());
        assert!(layer.image.check().await.unwrap().is_clean());
        check_bytes(&file.bytes(), false);
        assert!(layer.image.format_specific()["data"]["bitmaps"].is_null());
    });
}

#[test]
fn an_image_that_is_only_read_keeps_its_bitmaps_untouched() {
    with_seed(7, |_, seed| async move {
        let file = sim(seed);
        let layer = with_bitmap(&file, 4096, 1 << 20, false).await;
        layer.write(8192, vec![1; 512]).await.unwrap();
        layer.image.close().await.unwrap();
        let before = file.bytes();
        for read_only in [true, false] {
            let open = crate::qcow2::OpenOptions {
                read_only,
                ..SMALL_CACHE
            };
            let layer = open_layer(&file, open, nothing()).await;
            assert_eq!(dirty(&bitmap(&layer, "b")), [(8192, 512)]);
            layer.image.close().await.unwrap();
            assert!(file.bytes() == before);
        }
    });
}

#[test]
fn bitmaps_change_their_size_with_the_disk() {
    with_seed(8, |_, seed| async move {
        let file = sim(seed);
        let layer = with_bitmap(&file, 4096, 1 << 20, false).await;
        let last = (1 << 20) - 512;
        layer.write(last, vec![1; 512]).await.unwrap();
        layer.image.close().await.unwrap();
        let grown = 40 << 20;
        layer.image.resize(grown, &*layer.below).await.unwrap();
        assert_eq!(dirty(&bitmap(&layer, "b")), [(last, 512)]);
        layer.write(grown - 512, vec![1; 512]).await.unwrap();
        layer.image.close().await.unwrap();
        check_bytes(&file.bytes(), false);
        let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
        let both = [(last, 512), (grown - 512, 512)];
        assert_eq!(dirty(&bitmap(&layer, "b")), both);
        layer.image.resize(last, &*layer.below).await.unwrap();
        layer.image.flush().await.unwrap();
        // A program that dies now leaves it in use, and its table too long.
        let died = sim_with(file.bytes(), seed);
        layer.image.close().await.unwrap();
        let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
        assert_eq!(dirty(&bitmap(&layer, "b")), []);
        assert!(layer.image.check().await.unwrap().is_clean());
        let layer = open_layer(&died, SMALL_CACHE, nothing()).await;
        assert!(bitmap(&layer, "b").is_inconsistent());
        let refused = layer.image.resize(grown, &*layer.below).await;
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("Bitmap 'b' is inconsistent"), "{error}");
    });
}

#[test]
fn a_disk_of_no_bytes_keeps_its_bitmaps() {
    with_seed(9, |_, seed| async move {
        let file = sim(seed);
        let layer = with_bitmap(&file, 4096, 1 << 20, false).await;
        layer.image.resize(0, &*layer.below).await.unwrap();
        layer.image.close().await.unwrap();
        let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
        assert_eq!(dirty(&bitmap(&layer, "b")), []);
        layer.image.resize(1 << 20, &*layer.below).await.unwrap();
        layer.write(512, vec![1; 512]).await.unwrap();
        assert_eq!(dirty(&bitmap(&layer, "b")), [(512, 512)]);
        layer.image.close().await.unwrap();
        assert!(layer.image.check().await.unwrap().is_clean());
    });
}

/// They mark the image as dirty, and as clean at last, in between.
#[test]
fn bitmaps_are_stored_after_snapshots_were_changed() {
    for lazy in [false, true] {
        with_seed(10, move |_, seed| async move {
            let file = sim(seed);
            let mut layer = with_bitmap(&file, 4096, 1 << 20, lazy).await;
            layer.write(4096, vec![1; 512]).await.unwrap();
            for change in 0..3 {
                let image = &layer.image;
                match change {
                    0 => image
                        .create_snapshot("a", std::time::UNIX_EPOCH)
                        .await
                        .map(drop),
                    1 => image.delete_snapshot("1").await,
                    _ => image
                        .create_snapshot("b", std::time::UNIX_EPOCH)
                        .await
                        .map(drop),
                }
                .unwrap();
                image.close().await.unwrap();
                layer = open_layer(&file, SMALL_CACHE, nothing()).await;
                assert_eq!(dirty(&bitmap(&layer, "b")), [(4096, 512)]);
            }
            layer.apply_snapshot("1").await;
            layer.image.close().await.unwrap();
            let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
            assert_eq!(dirty(&bitmap(&layer, "b")), [(0, 1 << 20)]);
            assert!(layer.image.check().await.unwrap().is_clean());
            check_bytes(&file.bytes(), false);
        });
    }
}
