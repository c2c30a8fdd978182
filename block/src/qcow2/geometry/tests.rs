use super::*;

fn geometry(cluster_bits: u32, size: u64) -> Geometry {
    Geometry {
        version: 3,
        cluster_bits,
        refcount_order: 4,
        size,
    }
}

#[test]
fn default_clusters() {
    let g = geometry(16, (1 << 30) + 1);
    assert_eq!(g.l2_entries(), 8192);
    assert_eq!(g.l2_coverage(), 512 << 20);
    assert_eq!(g.l1_entries(), 3);
    assert_eq!(g.guest_clusters(), 16385);
    assert_eq!(g.refcounts_per_block(), 32768);
    let cluster = GuestCluster(8192 + 513);
    assert_eq!(g.l1_index(cluster), 1);
    assert_eq!(g.slice_in_table(cluster), 4096);
    assert_eq!(g.index_in_slice(cluster), 1);
}

#[test]
fn limits_of_the_smallest_and_largest_clusters() {
    assert_eq!(geometry(9, 0).max_size(), 128 << 30);
    assert_eq!(geometry(21, 0).max_size(), 1 << 61);
    assert_eq!(geometry(9, 0).slice_bytes(), 512);
    assert_eq!(geometry(9, 0).refcounts_per_slice(), 256);
}
