//! Random requests, several at a time, against a plain array of bytes.

use std::{cell::RefCell, rc::Rc};

use strata_exec::{Executor, LocalBoxFuture, mem::SgList};

use super::support::*;
use crate::{backing::Backing, below::Below, qcow2::CreateOptions};

/// What an image shows, as far as it is known.
type Bytes = Rc<RefCell<Vec<u8>>>;

#[derive(Clone, Copy)]
struct Case {
    cluster: u64,
    version: u32,
    refcount_bits: u32,
    extended_l2: bool,
    clusters: u64,
    rounds: u64,
}

impl Default for Case {
    fn default() -> Self {
        Self {
            cluster: 4096,
            version: 3,
            refcount_bits: 16,
            extended_l2: false,
            clusters: 60,
            rounds: 60,
        }
    }
}

/// The layers that a case runs on: the topmost is written to.
async fn chain(
    case: &Case,
    random: &mut Random,
) -> (Rc<Layer>, Rc<strata_storage::SimFile>, Vec<u8>) {
    // Not a whole number of clusters.
    let size = case.cluster * case.clusters - 512 * random.below(case.cluster / 512);
    let (mut below, mut visible): (Rc<dyn Below>, _) = (nothing(), vec![0; size as usize]);
    let mut named = None;
    if random.chance(70) {
        // Shorter or longer than what lies on it, by any number of bytes.
        let len = random.below(size * 3 / 2) as usize;
        let raw = random.bytes(len);
        let shown = len.min(visible.len());
        visible[..shown].copy_from_slice(&raw[..shown]);
        below = Rc::new(RawBytes(raw));
        named = Some(Backing {
            name: "base.raw".into(),
            format: Some("raw".into()),
        });
    }
    let file = sim(random.0);
    let options = CreateOptions {
        size,
        cluster_size: case.cluster,
        version: case.version,
        refcount_bits: case.refcount_bits,
        extended_l2: case.extended_l2,
        backing: named,
        ..CreateOptions::default()
    };
    let layer = new_layer(&file, options, SMALL_CACHE, below).await;
    (layer, file, visible)
}

/// One random request on a free range; updates the model at once, as requests do not overlap.
fn request(
    layer: &Rc<Layer>,
    model: &Bytes,
    taken: &mut Vec<(u64, u64)>,
    random: &mut Random,
) -> Option<LocalBoxFuture<'static, ()>> {
    let size = layer.image.virtual_size();
    let cluster = layer.image.cluster_size();
    let mut offset = random.below(size / 512) * 512;
    let most = if random.chance(50) {
        cluster
    } else {
        cluster * 5
    };
    let mut len = (random.below(most / 512) * 512 + 512).min(size - offset);
    if random.chance(30) {
        offset -= offset % cluster;
        len = len.next_multiple_of(cluster).min(size - offset);
    }
    let kind = random.below(100);
    let exclusive = kind >= 70;
    let (start, end) = if exclusive {
        (
            offset - offset % cluster,
            (offset + len).next_multiple_of(cluster),
        )
    } else {
        (offset, offset + len)
    };
    if taken.iter().any(|&(s, e)| s < end && start < e) {
        return None;
    }
    taken.push((start, end));
    let (layer, model) = (layer.clone(), model.clone());
    let range = offset as usize..(offset + len) as usize;
    Some(match kind {
        0..30 => Box::pin(async move {
            let got = layer.read_vec(offset, len as usize).await.unwrap();
            assert!(got == model.borrow()[range], "read at {offset}+{len}");
        }),
        30..65 => {
            let bytes = random.bytes(len as usize);
            Box::pin(async move {
                layer.write(offset, bytes.clone()).await.unwrap();
                model.borrow_mut()[range].copy_from_slice(&bytes);
            })
        }
        65..70 => Box::pin(async move {
            let image = &layer.image;
            image
                .write_zeroes(offset, len, false, &*layer.below)
                .await
                .unwrap();
            model.borrow_mut()[range].fill(0);
        }),
        70..80 => Box::pin(async move {
            let image = &layer.image;
            image
                .write_zeroes(offset, len, true, &*layer.below)
                .await
                .unwrap();
            model.borrow_mut()[range].fill(0);
        }),
        80..90 => Box::pin(async move {
            layer
                .image
                .discard(offset, len, &*layer.below)
                .await
                .unwrap();
            let got = layer.read_vec(offset, len as usize).await.unwrap();
            let mut model = model.borrow_mut();
            let pairs = got.chunks(512).zip(model[range.clone()].chunks(512));
            for (got, before) in pairs {
                assert!(
                    got.iter().all(|&b| b == 0) || got == before,
                    "discard uncovered bytes"
                );
            }
            model[range].copy_from_slice(&got);
        }),
        _ => Box::pin(async move {
            let data = SgList::zeroed(len as usize);
            layer.below.read_below(offset, data.clone()).await.unwrap();
            layer
                .image
                .write_if_unallocated(offset, data, &*layer.below)
                .await
                .unwrap();
        }),
    })
}

async fn run_case(exec: Rc<Executor>, case: Case, seed: u64) {
    let mut random = Random(seed);
    let (mut layer, file, visible) = chain(&case, &mut random).await;
    let model: Bytes = Rc::new(RefCell::new(visible));
    for _ in 0..case.rounds {
        let mut taken = Vec::new();
        let mut futures: Vec<LocalBoxFuture<'static, ()>> = Vec::new();
        for _ in 0..random.below(8) + 1 {
            futures.extend(request(&layer, &model, &mut taken, &mut random));
        }
        if random.chance(40) {
            let layer = layer.clone();
            futures.push(Box::pin(async move { layer.image.flush().await.unwrap() }));
        }
        together(&exec, futures).await;
        if random.chance(5) {
            layer.image.close().await.unwrap();
            layer = open_layer(&file, SMALL_CACHE, layer.below.clone()).await;
        }
    }
    assert!(layer.read_all().await == *model.borrow());
    layer.image.close().await.unwrap();
    let reopened = open_layer(&file, SMALL_CACHE, layer.below.clone()).await;
    assert!(
        reopened.read_all().await == *model.borrow(),
        "after reopening"
    );
    let report = reopened.image.check().await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
    check_bytes(&file.bytes(), false);
}

fn cases(case: Case, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        with_seed(seed, |exec, seed| run_case(exec, case, seed));
    }
}

#[test]
fn clusters_of_512_bytes() {
    let case = Case {
        cluster: 512,
        clusters: 700,
        ..Case::default()
    };
    cases(case, 0..25);
}

#[test]
fn clusters_of_4_kib() {
    cases(Case::default(), 100..125);
}

#[test]
fn clusters_of_64_kib() {
    let case = Case {
        cluster: 65536,
        clusters: 8,
        ..Case::default()
    };
    cases(case, 200..210);
}

#[test]
fn clusters_of_2_mib() {
    let case = Case {
        cluster: 2 << 20,
        clusters: 2,
        ..Case::default()
    };
    cases(case, 300..302);
}

#[test]
fn version_2() {
    for (cluster, clusters, seeds) in [(512, 300, 400..415), (4096, 40, 420..435)] {
        let case = Case {
            cluster,
            version: 2,
            clusters,
            ..Case::default()
        };
        cases(case, seeds);
    }
}

#[test]
fn every_refcount_width() {
    for (n, refcount_bits) in [1, 2, 4, 8, 32, 64].into_iter().enumerate() {
        let case = Case {
            cluster: 512,
            refcount_bits,
            clusters: 500,
            ..Case::default()
        };
        let seed = 500 + n as u64 * 10;
        cases(case, seed..seed + 3);
    }
}

#[test]
fn extended_l2_entries() {
    let sizes = [
        (16 << 10, 20, 600..630),
        (64 << 10, 6, 640..650),
        (2 << 20, 2, 660..662),
    ];
    for (cluster, clusters, seeds) in sizes {
        let case = Case {
            cluster,
            extended_l2: true,
            clusters,
            ..Case::default()
        };
        cases(case, seeds);
    }
}
