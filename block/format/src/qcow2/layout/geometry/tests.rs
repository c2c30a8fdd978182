use super::*;

fn geometry(cluster_bits: u32) -> Geometry {
    Geometry {
        version: 3,
        cluster_bits,
        extended_l2: false,
        refcount_order: 4,
        external_data: false,
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

#[test]
fn subclusters() {
    let g = Geometry {
        extended_l2: true,
        ..geometry(16)
    };
    assert_eq!((g.subclusters(), g.subcluster_size()), (32, 2048));
    assert_eq!((g.l2_entries(), g.slice_entries()), (4096, 256));
    assert_eq!(g.slice_end(0xff_ffff), 256 << 16);
    assert_eq!(g.subcluster(0x1_27ff), 4);
    let second = GuestCluster(1);
    assert_eq!(g.touched(second, 0x1_0000, 0x2_0000), u32::MAX);
    assert_eq!(g.touched(second, 0, 0x1_0001), 1);
    assert_eq!(g.touched(second, 0x1_07ff, 0x1_0801), 3);
    assert_eq!(g.touched(second, 0x1_f800, 0x9_0000), 1 << 31);
    assert_eq!(g.touched(second, 0, 0x1_0000), 0);
    let plain = geometry(16);
    assert_eq!(plain.subcluster_size(), plain.cluster_size());
    assert_eq!(plain.touched(second, 0x1_1000, 0x1_1001), 1);
}
