use super::{Context, select};
use crate::extent::DiskExtent;

#[test]
fn queries_select_what_they_name_and_wildcards_only_list() {
    use Context::{Allocation, Depth};
    for (queries, set, list) in [
        (&["base:allocation"][..], vec![Allocation], vec![Allocation]),
        (&["base:"], vec![], vec![Allocation]),
        (&["qemu:"], vec![], vec![Depth]),
        (
            &[
                "qemu:allocation-depth",
                "base:allocation",
                "qemu:allocation-depth",
            ],
            vec![Allocation, Depth],
            vec![Allocation, Depth],
        ),
        (
            &["qemu:dirty-bitmap:", "x-other:thing", "base:alloc", ":"],
            vec![],
            vec![],
        ),
        (&[], vec![], vec![]),
    ] {
        assert_eq!(select(queries, false), set, "SET {queries:?}");
        assert_eq!(select(queries, true), list, "LIST {queries:?}");
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
