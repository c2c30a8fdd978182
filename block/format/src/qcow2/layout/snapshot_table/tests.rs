use super::*;

/// Whether a table of `entries` at `offset` is taken, in a file of 10 clusters of 512 bytes and a
/// little more.
fn is_valid(offset: u64, entries: u32) -> bool {
    let geometry = Geometry {
        version: 3,
        cluster_bits: 9,
        extended_l2: false,
        external_data: false,
        refcount_order: 4,
    };
    let entry = SnapshotEntry {
        len: 64,
        extra_len: 0,
        l1_offset: offset,
        l1_size: entries,
    };
    entry.has_valid_l1(&geometry, 10 * 512 + 8)
}

#[test]
fn a_snapshots_l1_table_lies_behind_the_header_and_within_the_file() {
    assert!(is_valid(512, 64));
    assert!(is_valid(512, 10 * 64));
    assert!(is_valid(10 * 512, 64), "the last cluster may be cut short");
    assert!(!is_valid(512, 10 * 64 + 1), "goes on behind the end");
    assert!(!is_valid(11 * 512, 1), "starts behind the end");
    assert!(!is_valid(0, 1), "on the header");
    assert!(!is_valid(520, 1), "not at a cluster");
    assert!(!is_valid(u64::MAX - 511, 64), "wraps");
    assert!(!is_valid(512, u32::MAX));
    assert!(is_valid(0, 0), "of a disk without bytes");
    assert!(!is_valid(8, 0), "not at a cluster");
}
