use std::{fs, path::Path};

use super::*;

fn option(file: &Path) -> DiskOption {
    crate::cli::disk::parse(format!("file={},format=raw", file.display()).as_ref()).unwrap()
}

fn kinds(bytes: &[u8]) -> Result<Vec<Kind>, TestError> {
    let top = tempfile::tempdir().unwrap();
    let file = top.path().join("disk.raw");
    fs::write(&file, bytes).unwrap();
    find(&option(&file))
}

/// A disk of 4 MiB with marks.
fn disk(marks: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; 4 << 20];
    for (at, mark) in marks {
        bytes[*at..at + mark.len()].copy_from_slice(mark);
    }
    bytes
}

#[test]
fn a_file_system_without_partitions() {
    assert_eq!(
        kinds(&disk(&[(0x438, &[0x53, 0xef])])).unwrap(),
        [Kind::Ext4]
    );
    assert_eq!(kinds(&disk(&[(0, b"XFSB")])).unwrap(), [Kind::Xfs]);
    assert_eq!(
        kinds(&disk(&[(0x1_0040, b"_BHRfS_M")])).unwrap(),
        [Kind::Btrfs]
    );
    assert_eq!(
        kinds(&disk(&[(0x8001, b"CD001")])).unwrap(),
        [Kind::Iso9660]
    );
    let error = kinds(&disk(&[])).unwrap_err().to_string();
    assert!(error.contains("no file system that is known"), "{error}");
}

#[test]
fn partitions_of_both_kinds() {
    let start = 1 << 20;
    let mbr: &[u8] = &[0x80, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0];
    let signature: &[u8] = &[0x55, 0xaa];
    let xfs = (start, &b"XFSB"[..]);
    assert_eq!(
        kinds(&disk(&[(446, mbr), (510, signature), xfs])).unwrap(),
        [Kind::Xfs]
    );
    let protective: &[u8] = &[0, 0, 0, 0, 0xee];
    let header = [
        &2u64.to_le_bytes()[..],
        &4u32.to_le_bytes(),
        &128u32.to_le_bytes(),
    ]
    .concat();
    let entry = [&[1; 32][..], &2048u64.to_le_bytes()].concat();
    let gpt = disk(&[
        (446, protective),
        (510, signature),
        (512, b"EFI PART"),
        (512 + 72, &header),
        (1024, &entry),
        xfs,
    ]);
    assert_eq!(kinds(&gpt).unwrap(), [Kind::Xfs]);
}

#[test]
fn tables_that_lead_nowhere() {
    let far: &[u8] = &[
        0, 0, 0, 0, 0x83, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0,
    ];
    assert!(kinds(&disk(&[(446, far), (510, &[0x55, 0xaa])])).is_err());
    let header = [
        &u64::MAX.to_le_bytes()[..],
        &u32::MAX.to_le_bytes(),
        &128u32.to_le_bytes(),
    ]
    .concat();
    let marks: [(usize, &[u8]); 4] = [
        (450, &[0xee]),
        (510, &[0x55, 0xaa]),
        (512, b"EFI PART"),
        (512 + 72, &header),
    ];
    assert!(kinds(&disk(&marks)).is_err());
}
