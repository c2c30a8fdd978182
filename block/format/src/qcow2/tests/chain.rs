//! Chains of several layers with clusters of different sizes, and merging them.

use std::rc::Rc;

use strata_exec::mem::SgList;
use strata_storage::SimFile;

use super::support::*;
use crate::{
    backing::Backing,
    below::Below,
    extent::ExtentKind,
    qcow2::{CreateOptions, OpenOptions},
};

fn named(name: &str) -> Option<Backing> {
    Some(Backing {
        name: name.into(),
        format: Some("qcow2".into()),
    })
}

/// Five layers over a raw base; `visible` is what the topmost shows.
struct Chain {
    top: Rc<Layer>,
    file: Rc<SimFile>,
    layers: Vec<Rc<Layer>>,
    visible: Vec<u8>,
}

async fn chain(random: &mut Random, version: u32) -> Chain {
    let base = random.bytes(100_000);
    let mut visible = base.clone();
    let mut below: Rc<dyn Below> = Rc::new(RawBytes(base));
    let (mut layers, mut file) = (Vec::new(), sim(0));
    for n in 0..5 {
        // Longer or shorter than the one below: what is cut off never shows again.
        let size = (60_000 + random.below(100_000)).next_multiple_of(512);
        visible.resize(size as usize, 0);
        file = sim(random.0 + n);
        let options = CreateOptions {
            size,
            cluster_size: 512 << random.below(6),
            version,
            backing: named("below"),
            ..CreateOptions::default()
        };
        let layer = new_layer(&file, options, OpenOptions::default(), below).await;
        for _ in 0..8 {
            let offset = random.below(size / 512) * 512;
            let len = (random.below(20) * 512 + 512).min(size - offset);
            let range = offset as usize..(offset + len) as usize;
            if random.chance(30) {
                let image = &layer.image;
                image
                    .write_zeroes(offset, len, true, &*layer.below)
                    .await
                    .unwrap();
                visible[range].fill(0);
            } else {
                let bytes = random.bytes(len as usize);
                layer.write(offset, bytes.clone()).await.unwrap();
                visible[range].copy_from_slice(&bytes);
            }
        }
        layer.image.flush().await.unwrap();
        layers.push(layer.clone());
        below = layer;
    }
    let top = layers.pop().unwrap();
    Chain {
        top,
        file,
        layers,
        visible,
    }
}

/// Copies up what the top lacks, and lets the layers below go.
async fn merge(chain: &Chain, chunk: u64) {
    let (image, size) = (&chain.top.image, chain.top.image.virtual_size());
    let mut at = 0;
    while at < size {
        let extent = image.extent(at, size - at).await.unwrap();
        if extent.kind == ExtentKind::Unallocated {
            let len = extent.len.min(chunk);
            let data = SgList::zeroed(len as usize);
            let below = &*chain.top.below;
            below.read_below(at, data.clone()).await.unwrap();
            image.write_if_unallocated(at, data, below).await.unwrap();
            at += len;
        } else {
            at += extent.len;
        }
    }
    image.set_backing(None).await.unwrap();
}

async fn merges(seed: u64, version: u32) {
    let mut random = Random(seed);
    let chain = chain(&mut random, version).await;
    assert!(
        chain.top.read_all().await == chain.visible,
        "before the merge"
    );
    merge(&chain, 16384).await;
    let alone = open_layer(&chain.file, OpenOptions::default(), nothing()).await;
    assert_eq!(alone.image.backing(), None);
    assert!(alone.read_all().await == chain.visible, "after the merge");
    for layer in chain.layers.iter().chain([&alone]) {
        layer.image.close().await.unwrap();
        let report = layer.image.check().await.unwrap();
        assert!(report.is_clean(), "{report:#?}");
    }
    check_bytes(&chain.file.durable_bytes(), false);
}

#[test]
fn deep_chains_merge_into_their_top() {
    for seed in 0..20 {
        with_seed(seed, |_, seed| merges(seed, 3));
    }
}

#[test]
fn deep_chains_of_version_2_merge() {
    for seed in 100..110 {
        with_seed(seed, |_, seed| merges(seed, 2));
    }
}

#[test]
fn sequential_writes_lie_in_sequence() {
    with_seed(1, |_, seed| async move {
        let file = sim(seed);
        let options = CreateOptions {
            size: 64 << 20,
            ..CreateOptions::default()
        };
        let layer = new_layer(&file, options, OpenOptions::default(), nothing()).await;
        for n in 0..64 {
            layer.write(n * 65536, vec![1; 65536]).await.unwrap();
        }
        let extent = layer.image.extent(0, 64 << 20).await.unwrap();
        // One table may have come in between at the start.
        assert!(extent.len >= 63 * 65536, "{extent:?}");
    });
}

#[test]
fn warm_lookups_and_overwrites_touch_no_tables() {
    with_seed(1, |_, seed| async move {
        let file = sim(seed);
        let options = CreateOptions {
            size: 1 << 20,
            ..CreateOptions::default()
        };
        let layer = new_layer(&file, options, OpenOptions::default(), nothing()).await;
        layer.write(0, vec![1; 65536]).await.unwrap();
        layer.image.flush().await.unwrap();
        let before = file.changes();
        layer.write(4096, vec![2; 4096]).await.unwrap();
        assert_eq!(file.changes(), before + 1, "one write of data");
        layer.image.flush().await.unwrap();
        assert_eq!(file.changes(), before + 2, "and one flush");
    });
}
