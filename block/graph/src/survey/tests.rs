use std::{fs::File, os::unix::fs::FileExt, path::Path, rc::Rc};

use strata_exec::{Executor, mem::SgList};
use strata_format::{backing::Backing, extent::DiskExtent, qcow2::CreateOptions};

use super::survey;
use crate::{
    Format, Node,
    chain::{ImageOptions, Opener},
    create_image,
};

const CLUSTER: u64 = 65536;

fn raw(path: &Path, clusters: u64, data_at: u64) {
    let file = File::create(path).unwrap();
    file.set_len(clusters * CLUSTER).unwrap();
    file.write_all_at(&[1; CLUSTER as usize], data_at * CLUSTER)
        .unwrap();
}

async fn overlay(exec: &Rc<Executor>, path: &Path, below: &str, format: &str) {
    let options = CreateOptions {
        size: 8 * CLUSTER,
        backing: Some(Backing {
            name: below.into(),
            format: Some(format.to_owned()),
        }),
        ..Default::default()
    };
    create_image(exec, path, options).await.unwrap();
}

/// Layers of 8 clusters: the top has data in 0 and zeros in 1, the middle data in 2, and the base,
/// which is 4 clusters long, data in 3.
async fn three_layers(exec: Rc<Executor>, directory: &Path) -> Rc<Node> {
    let opener = Opener::new(exec.clone());
    let open = async |name: &str| {
        let options = ImageOptions {
            format: Some(Format::Qcow2),
            ..Default::default()
        };
        opener.open(&directory.join(name), &options).await.unwrap()
    };
    raw(&directory.join("base"), 4, 3);
    overlay(&exec, &directory.join("middle"), "base", "raw").await;
    let middle = open("middle").await;
    let data = SgList::from_vec(vec![2; CLUSTER as usize]);
    middle.write(2 * CLUSTER, data.clone()).await.unwrap();
    middle.image().close().await.unwrap();
    overlay(&exec, &directory.join("top"), "middle", "qcow2").await;
    let top = open("top").await;
    top.write(0, data).await.unwrap();
    top.write_zeroes(CLUSTER, CLUSTER, true).await.unwrap();
    top
}

/// Length in clusters, zero, depth.
fn brief(extents: &[DiskExtent]) -> Vec<(u64, bool, u32)> {
    let brief = |e: &DiskExtent| (e.len / CLUSTER, e.zero, e.depth);
    extents.iter().map(brief).collect()
}

fn with_three_layers<T: 'static>(check: impl AsyncFnOnce(Rc<Node>) -> T + 'static) -> T {
    let exec = Executor::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    exec.clone()
        .block_on(async move { check(three_layers(exec, &path).await).await })
}

#[test]
fn every_layer_is_seen_with_its_depth() {
    let extents = with_three_layers(async |top| survey(&top, 0, 8 * CLUSTER, 100).await.unwrap());
    // Past its end the base hides what might lie below it, as QEMU counts it too.
    assert_eq!(
        brief(&extents),
        [
            (1, false, 1),
            (1, true, 1),
            (1, false, 2),
            (1, false, 3),
            (4, true, 3)
        ]
    );
}

#[test]
fn an_answer_is_cut_at_the_range_and_at_the_number_asked_for() {
    let (part, two) = with_three_layers(async |top| {
        let part = survey(&top, CLUSTER + 512, CLUSTER, 100).await.unwrap();
        (part, survey(&top, 0, 8 * CLUSTER, 2).await.unwrap())
    });
    let lens: Vec<_> = part.iter().map(|e| e.len).collect();
    assert_eq!(lens, [CLUSTER - 512, 512]);
    assert_eq!(brief(&two), [(1, false, 1), (1, true, 1)]);
}

#[test]
fn what_no_layer_holds_is_zero_at_depth_0() {
    let exec = Executor::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lone");
    let extents = exec.clone().block_on(async move {
        let options = CreateOptions {
            size: 8 * CLUSTER,
            ..Default::default()
        };
        create_image(&exec, &path, options).await.unwrap();
        let image = ImageOptions {
            format: Some(Format::Qcow2),
            ..Default::default()
        };
        let top = Opener::new(exec).open(&path, &image).await.unwrap();
        survey(&top, 0, 8 * CLUSTER, 1).await.unwrap()
    });
    assert_eq!(brief(&extents), [(8, true, 0)]);
}
