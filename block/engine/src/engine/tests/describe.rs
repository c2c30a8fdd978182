//! What is said of a chain's layers.

use std::sync::Arc;

use strata_graph::Format;

use super::{Bench, live::snapshot};
use crate::api::{Cmd, ImageInfo, QueryNamedBlockNodes, Reply};

/// A list that describes the layers below each layer anew would grow with the square of the depth,
/// and so would the time for which the guest stands.
#[test]
fn layers_are_described_once() {
    let bench = Bench::new();
    let base = bench.create("0");
    let _disk = bench.open("virtio0", &base, Some(Format::Qcow2)).unwrap();
    for name in ["1", "2", "3"] {
        bench
            .command(snapshot("virtio0", &bench.path(name)))
            .unwrap();
    }
    let reply = bench.command(Cmd::QueryNamedBlockNodes(QueryNamedBlockNodes::default()));
    let Ok(Reply::NamedBlockNodes(mut nodes)) = reply else {
        panic!("{reply:?}");
    };
    assert_eq!(nodes.len(), 4);
    nodes.sort_by_key(|node| node.backing_file_depth);
    let mut below: Option<Arc<ImageInfo>> = None;
    for (depth, node) in (0..).zip(nodes) {
        assert_eq!(node.backing_file_depth, depth);
        assert_eq!(
            node.image.filename,
            bench.path(&depth.to_string()).display().to_string()
        );
        let image = node.image;
        match (&below, &image.backing_image) {
            (None, None) => {}
            (Some(below), Some(shown)) => {
                assert_eq!(below, shown);
                let same = |a: &Option<Arc<_>>, b: &Option<Arc<_>>| match (a, b) {
                    (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                    (a, b) => a.is_none() && b.is_none(),
                };
                assert!(same(&below.backing_image, &shown.backing_image));
            }
            other => panic!("{other:?}"),
        }
        below = Some(Arc::new(image));
    }
}
