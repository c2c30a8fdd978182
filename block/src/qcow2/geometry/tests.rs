use super::*;

fn geometry(cluster_bits: u32) -> Geometry {
    Geometry {
        version: 3,
        cluster_bits,
        refcount_order: 4,
    }
}

#[test]
fn default_clusters() {
    let g = geometry(16);
    assert_eq!(g.l2_entries(), 8192);
    assert_eq!(g.l2_coverage(), 512 << 20);
    assert_eq!(g.l1_entries((1 << 30) + 1), 3);
    assert_eq!(g.clusters_for((1 << 30) + 1), 16385);
    assert_eq!(g.refcounts_per_block(), 32768);
    let cluster = GuestCluster(8192 + 513);
    assert_eq!(g.l1_index(cluster), 1);
    assert_eq!(g.slice_in_table(cluster), 4096);
    assert_eq!(g.index_in_slice(cluster), 1);
}

#[test]
fn limits_of_the_smallest_and_largest_clusters() {
    assert_eq!(geometry(9).max_size(), 128 << 30);
    assert_eq!(geometry(21).max_size(), 1 << 61);
    assert_eq!(geometry(9).slice_bytes(), 512);
    assert_eq!(geometry(9).refcounts_per_slice(), 256);
}
