//! What layers record in their dirty bitmaps.

use std::time::UNIX_EPOCH;

use strata_exec::mem::SgList;
use strata_format::bitmap::DirtyBitmap;

use super::support::*;
use crate::{
    Node,
    bitmaps::{BitmapChange, BitmapPlan},
};

const CLUSTER: u64 = 4096;
const SIZE: u64 = 16 * CLUSTER;

/// What is dirty since the last call: offsets and lengths.
fn dirty(node: &Node) -> Vec<(u64, u64)> {
    let bitmap = node.bitmaps().find("b").unwrap();
    let (mut at, mut ranges) = (0, Vec::new());
    for (len, dirty) in bitmap.runs(0, bitmap.size(), usize::MAX) {
        if dirty {
            ranges.push((at, len));
        }
        at += len;
    }
    bitmap.clear();
    ranges
}

fn ones(len: u64) -> SgList {
    SgList::from_vec(vec![1; len as usize])
}

/// A layer `top` of each format on `base`, with a bitmap of sectors.
async fn layers() -> Vec<(Files, std::rc::Rc<Node>)> {
    let qcow2 = Kind::Qcow2 {
        cluster: CLUSTER,
        version: 3,
    };
    let mut layers = Vec::new();
    for kind in [qcow2, Kind::Qed] {
        let mut bytes = Bytes::new();
        create(&mut bytes, "base", qcow2, SIZE, None).await;
        create(&mut bytes, "top", kind, SIZE, Some("base")).await;
        let files = Files::new(&bytes, 1);
        let node = files.open("top", &["top"]).await;
        let name = node.bitmaps().reserve("b").unwrap();
        let bitmap = DirtyBitmap::new(name, 9, SIZE, false);
        node.bitmaps().add(bitmap);
        layers.push((files, node));
    }
    layers
}

#[test]
fn every_change_is_recorded_and_what_is_copied_up_is_not() {
    seeds(1, async |_, _| {
        for (_, top) in layers().await {
            top.write(CLUSTER, ones(1024)).await.unwrap();
            assert_eq!(dirty(&top), [(CLUSTER, 1024)]);
            top.write_bytes(CLUSTER + 700, ones(100)).await.unwrap();
            assert_eq!(dirty(&top), [(CLUSTER + 512, 512)]);
            top.write_zeroes(512, CLUSTER, true).await.unwrap();
            assert_eq!(dirty(&top), [(512, CLUSTER)]);
            top.discard(CLUSTER, CLUSTER).await.unwrap();
            assert_eq!(dirty(&top), [(CLUSTER, CLUSTER)]);
            top.hide_with_zeroes(8 * CLUSTER, 512).await.unwrap();
            assert_eq!(dirty(&top), [(8 * CLUSTER, 512)]);
            if let Some(packed) = top.image().pack(&ones(CLUSTER)).await {
                top.write_packed(2 * CLUSTER, packed).await.unwrap();
                assert_eq!(dirty(&top), [(2 * CLUSTER, CLUSTER)]);
            } else {
                assert!(top.image().as_qcow2().is_none(), "ones get shorter");
            }
            let at = 4 * CLUSTER;
            let held = top.enter_exclusive(at, 2 * CLUSTER).await.unwrap();
            top.write_if_unallocated(at, ones(CLUSTER)).await.unwrap();
            let zeroed = top.zero_if_unallocated(at + CLUSTER, CLUSTER);
            zeroed.await.unwrap();
            drop(held);
            assert_eq!(dirty(&top), []);
        }
    });
}

#[test]
fn a_write_that_fails_is_recorded() {
    seeds(1, async |_, _| {
        for (files, top) in layers().await {
            // It is written in place from now on.
            top.write(CLUSTER, ones(CLUSTER)).await.unwrap();
            dirty(&top);
            files.file("top").fail_after(0);
            top.write(CLUSTER, ones(512)).await.unwrap_err();
            assert_eq!(dirty(&top), [(CLUSTER, 512)]);
            top.write_bytes(CLUSTER + 1, ones(1)).await.unwrap_err();
            assert_eq!(dirty(&top), [(CLUSTER, 512)]);
        }
    });
}

#[test]
fn the_name_of_a_bitmap_is_kept_from_others_while_it_is_being_made() {
    seeds(1, async |_, _| {
        for (_, top) in layers().await {
            let add = || BitmapChange::Add {
                granularity: None,
                persistent: false,
                disabled: false,
            };
            let taken = "Bitmap already exists: c";
            let new = || BitmapPlan::new(&top, "top", "c", add());
            let plan = new().unwrap();
            assert_eq!(new().err().unwrap(), taken);
            plan.announce().await.unwrap();
            let plan = plan.check_again("c", add()).unwrap();
            assert_eq!(new().err().unwrap(), taken);
            // Given up.
            drop(plan);
            new().unwrap().carry_out();
            assert_eq!(new().err().unwrap(), taken);
            let gone = BitmapPlan::new(&top, "top", "c", BitmapChange::Remove);
            gone.unwrap().carry_out();
            new().unwrap().carry_out();
            assert_eq!(top.bitmaps().list().len(), 2);
        }
    });
}

#[test]
fn an_applied_snapshot_changes_all_of_the_layer() {
    seeds(1, async |_, _| {
        for (_, top) in layers().await {
            let Some(image) = top.image().as_qcow2() else {
                let refused = top.apply_snapshot("1").await.unwrap_err().to_string();
                assert!(refused.contains("'qed' does not support"), "{refused}");
                continue;
            };
            image.create_snapshot("s", UNIX_EPOCH).await.unwrap();
            top.resize(2 * SIZE).await.unwrap();
            top.write(0, ones(512)).await.unwrap();
            dirty(&top);
            top.apply_snapshot("2").await.unwrap_err();
            assert_eq!((top.size(), dirty(&top)), (2 * SIZE, Vec::new()));
            top.apply_snapshot("1").await.unwrap();
            assert_eq!((top.size(), dirty(&top)), (SIZE, vec![(0, SIZE)]));
        }
    });
}
