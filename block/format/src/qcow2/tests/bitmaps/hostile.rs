//! Bitmaps that contradict themselves: the image can be used, they cannot.

use super::*;
use crate::qcow2::{Qcow2, layout::header::AUTOCLEAR_BITMAPS};

/// Offsets in a file: of the extension's data, the directory, the table, the bits.
struct Places {
    extension: usize,
    directory: usize,
    table: usize,
}

fn be64(bytes: &[u8], at: usize) -> usize {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

fn places(bytes: &[u8]) -> Places {
    let extension = 112 + 8;
    let directory = be64(bytes, extension + 16);
    let table = be64(bytes, directory);
    Places {
        extension,
        directory,
        table,
    }
}

async fn image(seed: u64) -> Vec<u8> {
    let file = sim(seed);
    let layer = with_bitmap(&file, 4096, 1 << 20, false).await;
    layer.write(8192, vec![1; 512]).await.unwrap();
    layer.image.close().await.unwrap();
    file.bytes()
}

#[test]
fn damaged_bitmaps_are_given_up_with_the_first_write() {
    with_seed(1, |_, seed| async move {
        let good = image(seed).await;
        let p = places(&good);
        let l1 = be64(&good, 40) as u64;
        let cases: Vec<(&str, usize, Vec<u8>)> = vec![
            ("no such count", p.extension, vec![0xff; 4]),
            ("count 0", p.extension, vec![0; 4]),
            ("reserved", p.extension + 4, vec![1; 4]),
            ("huge directory", p.extension + 8, vec![0x7f; 8]),
            ("directory too short", p.extension + 15, vec![24]),
            ("directory outside", p.extension + 16, vec![0x7f]),
            ("directory not aligned", p.extension + 22, vec![1]),
            ("directory on L1", p.extension + 16, l1.to_be_bytes().into()),
            ("table outside", p.directory, vec![0x7f]),
            ("table on L1", p.directory, l1.to_be_bytes().into()),
            ("table huge", p.directory + 8, vec![0x7f; 4]),
            ("table too long", p.directory + 11, vec![2]),
            ("granularity", p.directory + 17, vec![77]),
            ("entry reserved", p.table, vec![0x80]),
            ("bits outside", p.table, vec![0, 0x7f]),
            ("bits on L1", p.table, l1.to_be_bytes().into()),
            ("bits with a flag", p.table + 7, vec![1]),
        ];
        for (what, at, bytes) in cases {
            let mut bad = good.clone();
            bad[at..at + bytes.len()].copy_from_slice(&bytes);
            let file = sim_with(bad.clone(), seed);
            let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
            assert!(layer.image.bitmaps().list().is_empty(), "{what}");
            assert!(file.bytes() == bad, "{what}: written to while opened");
            assert_eq!(layer.read_vec(8192, 512).await.unwrap(), [1; 512]);
            layer.write(0, vec![2; 512]).await.unwrap();
            layer.image.close().await.unwrap();
            let autoclear = be64(&file.bytes(), 88) as u64;
            assert_eq!(autoclear & AUTOCLEAR_BITMAPS, 0, "{what}");
            // The directory's clusters are lost, and are known to be.
            let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
            let report = layer.image.check().await.unwrap();
            assert_eq!(report.corruptions, 0, "{what}: {report:#?}");
            assert_eq!(report.leaks, 3, "{what}: {report:#?}");
        }
    });
}

#[test]
fn bitmaps_of_which_a_program_did_not_know_are_not_trusted() {
    with_seed(2, |_, seed| async move {
        let mut bytes = image(seed).await;
        bytes[88..96].fill(0);
        let file = sim_with(bytes, seed);
        let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
        assert!(layer.image.bitmaps().list().is_empty());
        layer.write(0, vec![2; 512]).await.unwrap();
        // New ones replace them.
        layer.add_bitmap("new", 16, 1 << 20);
        layer.image.close().await.unwrap();
        let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
        let names: Vec<_> = layer.image.bitmaps().list();
        assert_eq!(names.len(), 1);
        assert_eq!(names[0].name(), "new");
        check_bytes(&file.bytes(), true);
    });
}

#[test]
fn what_is_not_understood_is_kept_and_goes_stale_only_if_it_records() {
    with_seed(3, |_, seed| async move {
        for (flags, stays_valid) in [(0u8, true), (2, false)] {
            let mut bytes = image(seed).await;
            let p = places(&bytes);
            bytes[p.directory + 15] = flags;
            bytes[p.directory + 16] = 9;
            let file = sim_with(bytes, seed);
            let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
            assert!(bitmap(&layer, "b").is_inconsistent());
            layer.write(0, vec![2; 512]).await.unwrap();
            layer.image.close().await.unwrap();
            let bytes = file.bytes();
            let p = places(&bytes);
            let expected = if stays_valid { flags } else { flags | 1 };
            assert_eq!(bytes[p.directory + 15], expected);
            assert_eq!(bytes[p.directory + 16], 9);
            let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
            // Everything is counted, and nothing is wrong but that.
            let report = layer.image.check().await.unwrap();
            let only = ["ERROR Bitmap 'b' doesn't satisfy the constraints"];
            assert_eq!(report.lines, only);
            assert_eq!((report.corruptions, report.leaks), (1, 0));
        }
    });
}

#[test]
fn tables_that_share_clusters_are_refused() {
    with_seed(4, |_, seed| async move {
        let file = sim(seed);
        let layer = with_bitmap(&file, 4096, 1 << 20, false).await;
        layer.add_bitmap("c", 9, 1 << 20);
        layer.write(8192, vec![1; 512]).await.unwrap();
        layer.image.close().await.unwrap();
        let mut bytes = file.bytes();
        let p = places(&bytes);
        bytes.copy_within(p.directory..p.directory + 8, p.directory + 32);
        let file = sim_with(bytes, seed);
        let open = crate::qcow2::OpenOptions {
            read_only: true,
            ..SMALL_CACHE
        };
        let image = Qcow2::open(strata_storage::Storage::Sim(file), open);
        assert!(image.await.unwrap().bitmaps().list().is_empty());
    });
}
