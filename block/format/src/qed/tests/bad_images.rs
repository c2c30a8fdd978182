//! Known bad images, one row for each corruption that the format can describe: each gets a precise
//! error, and no byte of it changes.

use std::rc::Rc;

use super::CACHE;
use crate::{
    below::Nothing,
    qed::{CreateOptions, Qed, create},
};

const CLUSTER: u64 = 4096;

/// What is damaged, as offsets in tables that the good image names.
#[derive(Clone, Copy)]
enum At {
    Header(usize),
    L1(usize),
    L2(usize),
}

use At::*;
use strata_exec::{Executor, mem::SgList};
use strata_storage::{SimFile, Storage, error::Error};

type Row = (&'static str, At, &'static [u8], &'static str);

const fn word(n: u64) -> [u8; 8] {
    n.to_le_bytes()
}

#[rustfmt::skip]
const REFUSED: &[Row] = &[
    ("another file", Header(0), b"QEE\0", "is not a QED image"),
    ("clusters too small", Header(4), &[0, 2, 0, 0], "has a cluster size of 512 bytes, which is not allowed"),
    ("clusters too large", Header(4), &[0, 0, 0, 8], "has a cluster size of 134217728 bytes, which is not allowed"),
    ("clusters of no power of two", Header(4), &[1, 16, 0, 0], "has a cluster size of 4097 bytes, which is not allowed"),
    ("no tables", Header(8), &[0, 0, 0, 0], "has tables of 0 clusters, which is not allowed"),
    ("tables too large", Header(8), &[32, 0, 0, 0], "has tables of 32 clusters, which is not allowed"),
    ("no header", Header(12), &[0, 0, 0, 0], "has a header of no clusters"),
    ("a header of all clusters there are", Header(12), &[0xff; 4], "has its L1 table at 0x1000, where it cannot be"),
    ("unknown feature", Header(16), &word(1 << 40), "uses unknown features (0x10000000000): it needs a newer program"),
    ("L1 misaligned", Header(40), &word(0x1200), "has its L1 table at 0x1200, where it cannot be"),
    ("L1 on the header", Header(40), &word(0), "has its L1 table at 0x0, where it cannot be"),
    ("L1 behind the end", Header(40), &word(1 << 40), "is cut off: its L1 table at 0x10000000000 lies behind its end"),
    ("L1 that wraps", Header(40), &word(u64::MAX - 0xfff), "is cut off: its L1 table at 0xfffffffffffff000 lies behind its end"),
    ("a disk larger than its tables", Header(48), &word(1 << 62), "shows 4611686018427387904 bytes, which its tables do not allow"),
    ("a disk of part of a sector", Header(48), &word(1000), "shows 1000 bytes, which its tables do not allow"),
    ("backing name too long", Header(56), &[64, 0, 0, 0, 0, 4, 0, 0], "has a backing file's name that is too long or lies outside the header"),
    ("backing name out of the header", Header(56), &[0xff, 0x0f, 0, 0, 2, 0, 0, 0], "has a backing file's name that is too long or lies outside the header"),
    ("backing name that wraps", Header(56), &[0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0], "has a backing file's name that is too long or lies outside the header"),
    ("backing name with zeros", Header(56), &[0, 1, 0, 0, 4, 0, 0, 0], "the backing file's name is none that a file can have"),
];

#[rustfmt::skip]
const MET: &[Row] = &[
    ("L2 table misaligned", L1(0), &word(0x3200), "L1 entry 0 names no table: 0x3200"),
    ("L2 table behind the end", L1(0), &word(1 << 40), "L1 entry 0 names no table: 0x10000000000"),
    ("L2 table that wraps", L1(0), &word(u64::MAX - 0xfff), "L1 entry 0 names no table: 0xfffffffffffff000"),
    ("L2 table on L1", L1(0), &word(0x1000), "L1 entry 0 names no table: 0x1000"),
    ("L2 table on the header", L1(0), &word(0x800), "L1 entry 0 names no table: 0x800"),
    ("cluster misaligned", L2(0), &word(0x5200), "the L2 entry of guest offset 0x0 names no cluster: 0x5200"),
    ("cluster behind the end", L2(0), &word(1 << 40), "the L2 entry of guest offset 0x0 names no cluster: 0x10000000000"),
    ("cluster that wraps", L2(0), &word(u64::MAX - 0xfff), "names no cluster: 0xfffffffffffff000"),
    ("cluster on L1", L2(0), &word(0x1000), "names no cluster: 0x1000"),
];

async fn good() -> Vec<u8> {
    let file = Rc::new(SimFile::new("good.qed", Vec::new(), 1));
    let options = CreateOptions {
        size: 1 << 20,
        cluster_size: CLUSTER,
        table_clusters: 2,
        backing: None,
    };
    create(Storage::Sim(file.clone()), options).await.unwrap();
    let image = Qed::open(Storage::Sim(file.clone()), false, CACHE)
        .await
        .unwrap();
    image
        .write(0, SgList::from_vec(vec![1; 20_000]), &Nothing)
        .await
        .unwrap();
    image.close().await.unwrap();
    file.bytes()
}

fn damaged(good: &[u8], at: At, new: &[u8]) -> Rc<SimFile> {
    let le64 = |at: usize| u64::from_le_bytes(good[at..at + 8].try_into().unwrap()) as usize;
    let l1 = le64(40);
    let at = match at {
        Header(at) => at,
        L1(n) => l1 + n * 8,
        L2(n) => le64(l1) + n * 8,
    };
    let mut bytes = good.to_vec();
    if at == 56 {
        // The field means something only with this feature.
        bytes[16] |= 1;
    }
    bytes[at..at + new.len()].copy_from_slice(new);
    Rc::new(SimFile::new("bad.qed", bytes, 1))
}

async fn refused(file: &Rc<SimFile>, read_only: bool) -> String {
    let before = file.bytes();
    let opened = Qed::open(Storage::Sim(file.clone()), read_only, CACHE).await;
    assert!(file.bytes() == before, "opening changed the image");
    match opened {
        Ok(_) => "nothing".to_owned(),
        Err(error @ Error::Image { .. }) => error.to_string(),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn each_gets_a_precise_error_and_keeps_its_bytes() {
    let exec = Executor::seeded(1).unwrap();
    exec.block_on(async {
        let good = good().await;
        for (what, at, new, expected) in REFUSED {
            let file = damaged(&good, *at, new);
            for read_only in [true, false] {
                let error = refused(&file, read_only).await;
                assert!(error.contains(expected), "{what}: {error}");
            }
        }
        for (what, at, new, expected) in MET {
            let file = damaged(&good, *at, new);
            let before = file.bytes();
            let image = Qed::open(Storage::Sim(file.clone()), false, CACHE)
                .await
                .unwrap();
            let error = image.extent(0, 512).await.unwrap_err().to_string();
            assert!(error.contains(expected), "{what}: {error}");
            let written = image.write(0, SgList::zeroed(512), &Nothing).await;
            let error = written.unwrap_err().to_string();
            assert!(error.contains(expected), "{what}: {error}");
            assert!(file.bytes() == before, "{what}: the image was changed");
        }
    });
}
