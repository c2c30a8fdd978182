//! Flushes that find no room: what they were to make durable may be lost for good, so the image
//! stops (rule W6).

use std::{rc::Rc, time::UNIX_EPOCH};

use strata_exec::LocalBoxFuture;
use strata_storage::{Faults, error::Result};

use super::{order::*, support::*};
use crate::{backing::Backing, qcow2::CreateOptions};

/// A change that flushes several times.
type Change = fn(Rc<Layer>) -> LocalBoxFuture<'static, Result<()>>;

const KIB: u64 = 1024;

fn options() -> CreateOptions {
    CreateOptions {
        size: 128 * KIB,
        cluster_size: 512,
        ..CreateOptions::default()
    }
}

/// Lets one flush of a change after the other find no room. The image stops whichever it is, and a
/// crash leaves nothing wrong.
fn stops_at_any_flush(options: CreateOptions, change: Change) {
    for seed in 0..2 {
        let options = options.clone();
        with_seed(seed, move |_, seed| async move {
            for flush in 0.. {
                let file = sim(seed * 1000 + flush);
                let layer = new_layer(&file, options.clone(), SMALL_CACHE, nothing()).await;
                layer.write(0, vec![1; 4096]).await.unwrap();
                layer.image.create_snapshot("s", UNIX_EPOCH).await.unwrap();
                layer.write(512, vec![2; 1024]).await.unwrap();
                layer.image.close().await.unwrap();
                file.fill_up_at_flush(Some(flush));
                let result = change(layer.clone()).await;
                if file.losses() == 0 {
                    result.unwrap();
                    assert!(flush > 1, "the change has flushed");
                    break;
                }
                result.expect_err("somebody has to learn of it");
                assert!(layer.image.is_stopped(), "flush {flush}");
                // In version 2 a crash may leave flags missing.
                if options.version > 2 {
                    let crash = reopen(file.crash(seed), &nothing()).await;
                    assert_no_corruption(&crash).await;
                }
            }
        });
    }
}

#[test]
fn while_the_header_gets_another_backing_file() {
    let options = CreateOptions {
        cluster_size: 4096,
        ..options()
    };
    stops_at_any_flush(options, |layer| {
        Box::pin(async move {
            let backing = Backing {
                name: "x".repeat(700).into(),
                format: Some("raw".into()),
            };
            layer.image.set_backing(Some(backing)).await
        })
    });
}

#[test]
fn while_the_l1_table_moves() {
    stops_at_any_flush(options(), |layer| {
        Box::pin(async move { layer.image.resize(8192 * KIB, &*layer.below).await })
    });
}

#[test]
fn while_the_refcount_table_moves() {
    let options = CreateOptions {
        size: 4096 * KIB,
        refcount_bits: 64,
        ..options()
    };
    stops_at_any_flush(options, |layer| {
        Box::pin(async move {
            layer.write(0, vec![3; 2200 << 10]).await?;
            Ok(layer.image.flush().await?)
        })
    });
}

#[test]
fn while_the_table_of_snapshots_is_replaced() {
    for version in [2, 3] {
        let options = CreateOptions {
            version,
            ..options()
        };
        stops_at_any_flush(options.clone(), |layer| {
            Box::pin(async move { layer.image.create_snapshot("t", UNIX_EPOCH).await.map(drop) })
        });
        stops_at_any_flush(options.clone(), |layer| {
            Box::pin(async move { layer.image.apply_snapshot("1").await })
        });
        stops_at_any_flush(options, |layer| {
            Box::pin(async move { layer.image.delete_snapshot("1").await })
        });
    }
}

#[test]
fn while_the_image_is_marked() {
    let options = CreateOptions {
        lazy_refcounts: true,
        ..options()
    };
    stops_at_any_flush(options, |layer| {
        Box::pin(async move {
            layer.write(8192, vec![4; 512]).await?;
            layer.image.close().await
        })
    });
}

/// A reference that could not be dropped is dropped later, and so are those that wait behind it.
#[test]
fn clusters_whose_refcounts_cannot_be_read_are_freed_by_a_later_flush() {
    seeds(4, async |_, seed| {
        let file = sim(seed);
        let options = CreateOptions {
            size: 1024 * KIB,
            refcount_bits: 64,
            ..options()
        };
        let layer = new_layer(&file, options, SMALL_CACHE, nothing()).await;
        layer.write(0, vec![1; 1 << 20]).await.unwrap();
        layer.image.close().await.unwrap();
        layer
            .image
            .discard(0, 700 * KIB, &*layer.below)
            .await
            .unwrap();
        for reads in [1000, 300, 100] {
            file.set_faults(Faults {
                read: reads,
                ..Faults::default()
            });
            let _ = layer.image.flush().await;
        }
        file.set_faults(Faults::default());
        layer.image.flush().await.unwrap();
        layer.image.close().await.unwrap();
        let report = layer.image.check().await.unwrap();
        assert!(report.is_clean(), "{:?}", report.lines);
    });
}
