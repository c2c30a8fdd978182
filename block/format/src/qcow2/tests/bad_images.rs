//! Known bad images, one row for each corruption that the format can describe: each gets a precise
//! error, and no byte of it changes.

use super::support::*;
use crate::qcow2::{CreateOptions, Damaged, OpenOptions, Qcow2};

/// Clusters of the good image: 4 KiB, so one L2 table maps 2 MiB.
const CLUSTER: u64 = 4096;

const READ_ONLY: OpenOptions = OpenOptions {
    read_only: true,
    cache_bytes: 0,
    discard: false,
    damaged: Damaged::Refused,
};

/// What is damaged: bytes from there on, in tables that the good image names.
#[derive(Clone, Copy)]
enum At {
    Header(usize),
    L1(usize),
    L2(usize),
    RefcountTable(usize),
    RefcountBlock(usize),
}

/// Where it has to be noticed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    /// Whatever it is opened for.
    Opened,
    /// When it is opened for writing; what is not damaged can be read.
    OpenedToWrite,
    /// When the first cluster is read or written.
    Used,
    /// When the first cluster is written; it can be read.
    Written,
}

use At::*;
use When::*;
use strata_storage::{Storage, error::Error};

type Row = (&'static str, At, &'static [u8], When, &'static str);

const fn word(n: u64) -> [u8; 8] {
    n.to_be_bytes()
}

const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;

#[rustfmt::skip]
const HEADER: &[Row] = &[
    ("another file", Header(0), b"QFJ", Opened, "is not a qcow2 image"),
    ("version too low", Header(4), &[0, 0, 0, 1], Opened, "qcow2 version 1 is not supported"),
    ("version too high", Header(4), &[0, 0, 0, 4], Opened, "qcow2 version 4 is not supported"),
    ("clusters too small", Header(20), &[0, 0, 0, 8], Opened, "cluster size 2^8 is not supported"),
    ("clusters too large", Header(20), &[0, 0, 0, 22], Opened, "cluster size 2^22 is not supported"),
    ("cluster bits that no shift can take", Header(20), &[0xff; 4], Opened, "cluster size 2^4294967295"),
    ("legacy AES", Header(32), &[0, 0, 0, 1], Opened, "is encrypted with AES (the old encryption of qcow2), which is not supported: make an image that is not encrypted of it with 'qemu-img convert'"),
    ("LUKS", Header(32), &[0, 0, 0, 2], Opened, "is encrypted with LUKS, which is not supported"),
    ("unknown encryption", Header(32), &[0, 0, 0, 3], Opened, "is encrypted with an unknown method (3)"),
    ("a disk larger than its L1 table", Header(24), &word(1 << 40), Opened, "the L1 table of 1 entries is too small for a disk of 1099511627776 bytes"),
    ("a disk of all bytes there are", Header(24), &word(u64::MAX), Opened, "Image is too big"),
    ("a disk larger than any L1 table can map", Header(24), &word(1 << 60), Opened, "Image is too big"),
    ("no L1 table", Header(36), &[0; 4], Opened, "the L1 table of 0 entries is too small"),
    ("L1 larger than the limit", Header(36), &[0xff; 4], Opened, "the L1 table of 34359738360 bytes is too large"),
    ("L1 longer than the file", Header(36), &[0, 0x40, 0, 0], Opened, "the L1 table at 0x3000 lies outside the file"),
    ("L1 behind the end", Header(40), &word(1 << 40), Opened, "the L1 table at 0x10000000000 lies outside the file"),
    ("L1 that wraps", Header(40), &word(u64::MAX - 0xfff), Opened, "the L1 table at 0xfffffffffffff000 lies outside the file"),
    ("L1 misaligned", Header(40), &word(0x3200), Opened, "the L1 table at 0x3200 is not cluster-aligned"),
    ("L1 on the header", Header(40), &word(0), Opened, "the L1 table at 0x0 overlaps the header"),
    ("refcount table behind the end", Header(48), &word(1 << 40), Opened, "the refcount table at 0x10000000000 lies outside the file"),
    ("refcount table misaligned", Header(48), &word(0x1200), Opened, "the refcount table at 0x1200 is not cluster-aligned"),
    ("refcount table on the header", Header(48), &word(0), Opened, "the refcount table at 0x0 overlaps the header"),
    ("no refcount table", Header(56), &[0; 4], Opened, "the image has no refcount table"),
    ("refcount table larger than the limit", Header(56), &[0xff; 4], Opened, "the refcount table of 17592186040320 bytes is too large"),
    ("too many snapshots", Header(60), &[0, 1, 0, 1], Opened, "65537 internal snapshots are too many"),
    ("snapshot table missing", Header(60), &[0, 0, 0, 1], Opened, "the snapshot table at 0x0 overlaps the header"),
    ("snapshot table behind the end", Header(60), &[0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0], Opened, "the snapshot table at 0x10000000000 lies outside the file"),
    ("snapshot table misaligned", Header(60), &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x32, 0], Opened, "the snapshot table at 0x3200 is not cluster-aligned"),
    ("backing name too long", Header(8), &[0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 4, 0], Opened, "the backing file's name has 1024 bytes, more than 1023"),
    ("backing name of 4 GiB", Header(8), &[0, 0, 0, 0, 0, 0, 2, 0, 0xff, 0xff, 0xff, 0xff], Opened, "the backing file's name has 4294967295 bytes"),
    ("backing name out of the header", Header(8), &[0, 0, 0, 0, 0, 0, 0x0f, 0xff, 0, 0, 0, 2], Opened, "the backing file's name lies outside the header cluster"),
    ("backing name that wraps", Header(8), &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 2], Opened, "the backing file's name lies outside the header cluster"),
    ("backing name in the fields", Header(8), &[0, 0, 0, 0, 0, 0, 0, 21, 0, 0, 0, 1], Opened, "the backing file's name"),
    ("backing name with zeros", Header(8), &[0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 4], Opened, "the backing file's name is none that a file can have"),
    ("refcounts too wide", Header(96), &[0, 0, 0, 7], Opened, "refcount width 2^7 bits is not valid"),
    ("refcount order that no shift can take", Header(96), &[0xff; 4], Opened, "refcount width 2^4294967295 bits is not valid"),
    ("header too short", Header(100), &[0, 0, 0, 96], Opened, "header length 96 is not valid"),
    ("header length not a multiple of 8", Header(100), &[0, 0, 0, 108], Opened, "header length 108 is not valid"),
    ("header longer than a cluster", Header(100), &[0, 0, 0x10, 8], Opened, "header length 4104 is not valid"),
    ("unknown feature", Header(72), &[0x40, 0, 0, 0, 0, 0, 0, 0], Opened, "Unsupported qcow2 feature(s): Unknown incompatible feature: 4000000000000000"),
    ("compression type without its feature", Header(104), &[1], Opened, "compression type 1 is not supported"),
    ("compression feature without a type", Header(79), &[8], Opened, "compression type 0 is not supported"),
    ("data file without a name", Header(79), &[4], Opened, "keeps its data in an external data file, but does not say in which"),
    ("extension longer than the header", Header(112), &[0x12, 0x34, 0x56, 0x78, 0, 0, 0x20, 0], Opened, "header extension 0x12345678 of 8192 bytes does not fit the header cluster"),
    ("extension of 4 GiB", Header(112), &[0x12, 0x34, 0x56, 0x78, 0xff, 0xff, 0xff, 0xff], Opened, "header extension 0x12345678 of 4294967295 bytes does not fit the header cluster"),
    ("marked corrupt", Header(79), &[2], OpenedToWrite, "is marked corrupt and cannot be written: repair it with 'strata-img check -r all' first"),
    ("snapshot without a valid L1", Header(60), &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x50, 0], OpenedToWrite, "internal snapshot 0 is not valid"),
];

#[rustfmt::skip]
const TABLES: &[Row] = &[
    ("L1 entry with reserved bits", L1(0), &word(COPIED | 0x4001), OpenedToWrite, "L1 entry 0x8000000000004001 has reserved bits set: the image is corrupt and cannot be written"),
    ("L2 table misaligned", L1(0), &word(COPIED | 0x4200), OpenedToWrite, "L2 table offset 0x4200 is not cluster-aligned"),
    ("L2 table behind the end", L1(0), &word(COPIED | 1 << 40), OpenedToWrite, "an L2 table at 0x10000000000 lies outside the file"),
    ("L2 table on the header", L1(0), &word(COPIED | 0x1000), OpenedToWrite, "an L2 table at 0x1000 overlaps the refcount table"),
    ("L2 table on L1", L1(0), &word(COPIED | 0x3000), OpenedToWrite, "an L2 table at 0x3000 overlaps the L1 table"),
    ("refcount block with reserved bits", RefcountTable(0), &word(0x2001), OpenedToWrite, "refcount table entry 0x2001 has reserved bits set"),
    ("refcount block misaligned", RefcountTable(0), &word(0x2200), OpenedToWrite, "refcount block offset 0x2200 is not valid"),
    ("refcount block behind the end", RefcountTable(0), &word(1 << 40), OpenedToWrite, "a refcount block at 0x10000000000 lies outside the file"),
    ("refcount block beyond 2^56", RefcountTable(0), &word(1 << 60), OpenedToWrite, "refcount block offset 0x1000000000000000 is not valid"),
    ("refcount block on L1", RefcountTable(0), &word(0x3000), OpenedToWrite, "a refcount block at 0x3000 overlaps the L1 table"),
    ("the same refcount block twice", RefcountTable(1), &word(0x2000), OpenedToWrite, "a refcount block at 0x2000 overlaps a refcount block"),
    ("L2 entry with reserved bits", L2(0), &word(COPIED | 0x5002), Used, "L2 entry 0x8000000000005002 has reserved bits set"),
    ("cluster misaligned", L2(0), &word(COPIED | 0x5200), Used, "cluster offset 0x5200 is not cluster-aligned"),
    ("cluster behind the end", L2(0), &word(COPIED | 1 << 40), Used, "L2 entry 0x8000010000000000 points outside the file"),
    ("compressed cluster behind the end", L2(0), &word(COMPRESSED | 1 << 40), Used, "points outside the file"),
    ("compressed cluster with the COPIED flag", L2(0), &word(COPIED | COMPRESSED | 0x5000), Used, "has the COPIED flag"),
    ("compressed cluster that is no stream", L2(0), &word(COMPRESSED | 0x2000), Used, "the compressed cluster at 0x2000"),
    ("data on the header", L2(0), &word(COPIED | 0x1000), Written, "data at 0x1000 would overwrite the refcount table"),
    ("data on L1", L2(0), &word(COPIED | 0x3000), Written, "data at 0x3000 would overwrite the L1 table"),
];

fn be64(bytes: &[u8], at: usize) -> usize {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

/// The good image: some data, and room for more.
async fn good() -> Vec<u8> {
    let file = sim(1);
    let options = CreateOptions {
        size: 1 << 20,
        cluster_size: CLUSTER,
        ..CreateOptions::default()
    };
    let layer = new_layer(&file, options, SMALL_CACHE, nothing()).await;
    layer.write(0, vec![1; 40_000]).await.unwrap();
    layer.image.close().await.unwrap();
    file.bytes()
}

fn damaged(good: &[u8], at: At, new: &[u8]) -> Vec<u8> {
    let (l1, table) = (be64(good, 40), be64(good, 48));
    let offset = |raw: usize| raw & 0x00ff_ffff_ffff_fe00;
    let at = match at {
        Header(at) => at,
        L1(n) => l1 + n * 8,
        L2(n) => offset(be64(good, l1)) + n * 8,
        RefcountTable(n) => table + n * 8,
        RefcountBlock(at) => be64(good, table) + at,
    };
    let mut bytes = good.to_vec();
    bytes[at..at + new.len()].copy_from_slice(new);
    bytes
}

/// Opens, reads, writes and checks a bad image; returns every error, in that order.
async fn tried(bytes: &[u8], options: OpenOptions) -> Result<Vec<(When, String)>, Error> {
    let file = sim_with(bytes.to_vec(), 1);
    let opened = Qcow2::open(Storage::Sim(file.clone()), options).await;
    assert!(file.bytes() == bytes, "opening changed the image");
    let below = nothing();
    let layer = Layer {
        image: opened?,
        below,
    };
    let mut errors = Vec::new();
    let mut note = |when, result: strata_storage::error::IoResult<()>| {
        errors.extend(result.err().map(|error| (when, error.to_string())));
    };
    note(Used, layer.read_vec(0, 512).await.map(drop));
    let _ = layer.image.check().await;
    assert!(file.bytes() == bytes, "reading changed the image");
    if !options.read_only {
        let below = &*layer.below;
        note(Written, layer.write(0, vec![2; 512]).await);
        note(Written, layer.image.write_zeroes(0, 512, true, below).await);
    }
    Ok(errors)
}

#[test]
fn each_gets_a_precise_error_and_keeps_its_bytes() {
    with_seed(1, |_, _| async {
        let good = good().await;
        for (what, at, new, when, expected) in HEADER.iter().chain(TABLES) {
            let bytes = damaged(&good, *at, new);
            let precise = |error: &str| {
                assert!(error.contains(expected), "{what}: {error}");
                assert_eq!(error.lines().count(), 1, "{what}: {error}");
            };
            match tried(&bytes, READ_ONLY).await {
                Err(error) => {
                    assert_eq!(*when, Opened, "{what}: {error}");
                    precise(&error.to_string());
                }
                Ok(_) => assert_ne!(*when, Opened, "{what}"),
            }
            match tried(&bytes, SMALL_CACHE).await {
                Err(error) => {
                    let early = matches!(when, Opened | OpenedToWrite);
                    assert!(early, "{what}: {error}");
                    precise(&error.to_string());
                }
                Ok(errors) => {
                    let first = errors.first();
                    let (found, error) = first.unwrap_or_else(|| panic!("{what}: no error"));
                    assert_eq!(found, when, "{what}: {error}");
                    precise(error);
                }
            }
        }
    });
}

/// Damage that a request meets leaves the image as it was, also when it is closed then.
#[test]
fn requests_that_meet_damage_write_nothing() {
    with_seed(1, |_, _| async {
        let good = good().await;
        for (what, at, new, when, _) in TABLES {
            if !matches!(when, Used | Written) {
                continue;
            }
            let bytes = damaged(&good, *at, new);
            let file = sim_with(bytes.clone(), 1);
            let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
            assert!(layer.write(0, vec![2; 512]).await.is_err(), "{what}");
            let _ = layer.image.close().await;
            assert!(file.bytes() == bytes, "{what}");
        }
    });
}

/// Tables that count as free are not given to anybody.
#[test]
fn an_allocation_that_meets_a_table_writes_nothing() {
    with_seed(1, |_, _| async {
        let good = good().await;
        // Refcounts are 16 bits wide: header and tables lie in the first six clusters.
        for count in 1..6 {
            let bytes = damaged(&good, RefcountBlock(0), &[0; 12][..count * 2]);
            let file = sim_with(bytes.clone(), 1);
            let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
            let written = layer.write(900 << 10, vec![3; 512]).await;
            let error = written.unwrap_err().to_string();
            assert!(
                error.contains("clusters at 0x0 are free but hold the header"),
                "{error}"
            );
            let _ = layer.image.close().await;
            assert!(file.bytes() == bytes);
        }
    });
}

/// What only a walk through all tables can find, the check finds.
#[test]
fn the_check_finds_the_rest() {
    with_seed(1, |_, _| async {
        let good = good().await;
        // Refcounts are 16 bits wide; cluster 5 is the first one of data.
        let rows: &[(At, &[u8], &str)] = &[
            (
                RefcountBlock(10),
                &[0, 0],
                "ERROR cluster 5 refcount=0 reference=1",
            ),
            (
                RefcountBlock(10),
                &[0, 2],
                "Leaked cluster 5 refcount=2 reference=1",
            ),
            (
                L2(0),
                &word(COPIED | 0x6000),
                "ERROR cluster 6 refcount=1 reference=2",
            ),
            (
                L2(0),
                &word(0x5000),
                "ERROR OFLAG_COPIED data cluster: l2_entry=5000 refcount=1",
            ),
            (
                L1(0),
                &word(0x4000),
                "ERROR OFLAG_COPIED L2 cluster: l1_index=0 l1_entry=4000 refcount=1",
            ),
        ];
        for (at, new, expected) in rows {
            let bytes = damaged(&good, *at, new);
            let file = sim_with(bytes.clone(), 1);
            let image = Qcow2::open(Storage::Sim(file.clone()), READ_ONLY)
                .await
                .unwrap();
            let report = image.check().await.unwrap();
            let found = report.lines.iter().any(|line| line == expected);
            assert!(found, "{expected}: {:?}", report.lines);
            assert!(file.bytes() == bytes, "{expected}");
        }
    });
}
