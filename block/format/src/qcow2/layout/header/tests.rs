use super::*;

fn geometry(version: u32) -> Geometry {
    Geometry {
        version,
        cluster_bits: 16,
        extended_l2: false,
        refcount_order: 4,
        external_data: false,
    }
}

fn header(version: u32) -> Header {
    Header {
        backing: Some((0x1234, 56)),
        l1_size: 20,
        l1_offset: 0x30000,
        refcount_table_offset: 0x10000,
        refcount_table_clusters: 1,
        ..Header::new(geometry(version), 10 << 30)
    }
}

/// The header in the first cluster of a file.
fn cluster(header: &Header) -> Vec<u8> {
    let mut bytes = header.to_bytes();
    bytes.resize(1 << 16, 0);
    bytes
}

#[test]
fn both_versions_round_trip() {
    for version in [2, 3] {
        let header = header(version);
        assert_eq!(header.to_bytes().len(), header.len());
        assert_eq!(Header::parse(&cluster(&header)), Ok(header));
    }
}

#[test]
fn additional_fields_are_kept() {
    let mut header = header(3);
    header.additional = (0..24).collect();
    header.autoclear = 1 << 63;
    header.incompatible = Incompatible::from_bits_retain(1 << 40);
    let parsed = Header::parse(&cluster(&header)).unwrap();
    assert_eq!(parsed, header);
    assert_eq!(parsed.compression_type(), 0);
    header.additional[0] = 1;
    assert_eq!(header.compression_type(), 1);
}

#[test]
fn tables_have_to_lie_in_the_file_behind_the_header() {
    let good = header(3);
    assert_eq!(good.check_tables(0x40000), Ok(()));
    // The last cluster of the refcount table may be cut short, L1 may not.
    assert_eq!(good.check_tables(0x300a0), Ok(()));
    assert!(good.check_tables(0x3009f).is_err());
    let with = |change: fn(&mut Header)| {
        let mut header = good.clone();
        change(&mut header);
        header.check_tables(0x40000).unwrap_err()
    };
    assert!(with(|h| h.l1_size = 19).contains("too small"));
    assert!(with(|h| h.l1_size = 4 << 20 | 1).contains("too large"));
    assert!(with(|h| h.l1_offset = u64::MAX << 16).contains("outside"));
    assert!(with(|h| h.refcount_table_offset = 0).contains("overlaps the header"));
    assert!(with(|h| h.refcount_table_offset = 0x10200).contains("aligned"));
    assert!(with(|h| h.refcount_table_clusters = 0).contains("no refcount table"));
    assert!(with(|h| h.refcount_table_clusters = u32::MAX).contains("too large"));
    assert!(with(|h| h.snapshots = 65537).contains("too many"));
    assert!(with(|h| h.snapshots = 1).contains("snapshot table"));
    assert!(with(|h| h.size = u64::MAX).contains("Image is too big"));
}
