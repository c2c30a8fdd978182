use super::*;
use crate::{bitmap::DirtyBitmap, names::Namespace};

const GEOMETRY: Geometry = Geometry {
    version: 3,
    cluster_bits: 16,
    refcount_order: 4,
    external_data: false,
    extended_l2: false,
};

fn entry(name: &str, extra: &[u8]) -> Entry {
    let name = Namespace::default().reserve(name).unwrap();
    let bitmap = DirtyBitmap::new(name, 16, 1 << 30, true);
    Entry {
        extra: extra.to_vec(),
        ..Entry::new(0x50000, 1, &bitmap)
    }
}

#[test]
fn entries_come_back_as_they_were_written() {
    let entries = [entry("one", &[]), entry("zwei ü", &[1, 2, 3])];
    let bytes = to_bytes(&entries);
    assert_eq!(bytes.len(), 32 + 40);
    assert_eq!(parse(&bytes, 2, &GEOMETRY).unwrap(), entries);
}

#[test]
fn what_is_not_understood_is_not_used() {
    let usable = entry("a", &[]);
    assert!(usable.is_usable() && usable.goes_stale());
    let foreign = entry("a", &[1]);
    assert!(!foreign.is_usable() && foreign.goes_stale());
    let mut compatible = foreign.clone();
    compatible.flags |= Flags::EXTRA_DATA_COMPATIBLE;
    assert!(compatible.is_usable());
    let mut kind = usable.clone();
    (kind.kind, kind.flags) = (2, Flags::empty());
    assert!(!kind.is_usable() && !kind.goes_stale());
    let mut flags = usable;
    flags.flags |= Flags::from_bits_retain(8);
    assert!(!flags.is_usable());
}

#[test]
fn every_field_is_checked() {
    let good = to_bytes(&[entry("name", &[])]);
    assert!(parse(&good, 1, &GEOMETRY).is_ok());
    let cases: [(&str, usize, &[u8]); 8] = [
        ("table not aligned", 6, &[1]),
        ("no table", 5, &[0]),
        ("no entries", 11, &[0]),
        ("too many entries", 8, &[1]),
        ("granularity too small", 17, &[8]),
        ("granularity too large", 17, &[32]),
        ("no name", 19, &[0]),
        ("name not text", 24, &[0xff]),
    ];
    for (what, at, bytes) in cases {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        assert!(parse(&bad, 1, &GEOMETRY).is_err(), "{what}");
    }
    for (what, at, value) in [("extra data", 20, 0x7f), ("name", 18, 1)] {
        let mut bad = good.clone();
        bad[at] = value;
        let error = parse(&bad, 1, &GEOMETRY).unwrap_err();
        assert_eq!(error, "the bitmap directory is cut off", "{what}");
    }
    assert!(parse(&good, 2, &GEOMETRY).unwrap_err().contains("cut off"));
    assert!(parse(&good[..16], 1, &GEOMETRY).is_err());
    let twice = [good.clone(), good.clone()].concat();
    assert!(parse(&twice, 1, &GEOMETRY).unwrap_err().contains("more"));
    assert!(parse(&twice, 2, &GEOMETRY).unwrap_err().contains("two"));
}
