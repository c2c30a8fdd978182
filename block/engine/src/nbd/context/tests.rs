use strata_format::extent::DiskExtent;

use super::{Context, matches};

#[test]
fn queries_select_what_they_name_and_wildcards_only_list() {
    let names = [
        "base:allocation",
        "qemu:allocation-depth",
        "qemu:dirty-bitmap:a",
        "qemu:dirty-bitmap:a:b",
    ];
    for (query, set, list) in [
        ("base:allocation", &names[..1], &names[..1]),
        ("base:", &[], &names[..1]),
        ("qemu:", &[], &names[1..]),
        ("qemu:dirty-bitmap:", &[], &names[2..]),
        ("qemu:dirty-bitmap:a", &names[2..3], &names[2..3]),
        ("qemu:dirty-bitmap:a:b", &names[3..], &names[3..]),
        ("qemu:dirty-bitmap:b", &[], &[]),
        ("x-other:thing", &[], &[]),
        ("base:alloc", &[], &[]),
        (":", &[], &[]),
        ("", &[], &[]),
    ] {
        for (wildcards, expected) in [(false, set), (true, list)] {
            let mut found = names.to_vec();
            found.retain(|name| matches(name, query, wildcards));
            assert_eq!(found, expected, "{query} {wildcards}");
        }
    }
}

#[test]
fn extents_that_look_alike_to_a_context_are_one_run() {
    let extent = |len, zero, depth| DiskExtent { len, zero, depth };
    let extents = [
        extent(1, false, 1),
        extent(2, false, 2),
        extent(4, true, 2),
        extent(8, true, 0),
        extent(16, false, 3),
    ];
    assert_eq!(
        Context::Allocation.describe(&extents),
        [(3, 0), (12, 3), (16, 0)]
    );
    assert_eq!(
        Context::Depth.describe(&extents),
        [(1, 1), (6, 2), (8, 0), (16, 3)]
    );
}
