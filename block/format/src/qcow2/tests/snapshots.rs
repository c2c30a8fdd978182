//! Internal snapshots, which no write may harm. QEMU makes them and says what they show.

use std::path::Path;

use super::{interop, order::*, support::*};

/// The content of the snapshot `tag`, as QEMU sees it.
pub(super) fn shown(path: &Path, tag: &str) -> Vec<u8> {
    let raw = path.with_extension("raw");
    let (from, to) = (interop::name(path), interop::name(&raw));
    run(
        "qemu-img",
        &["convert", "-f", "qcow2", "-O", "raw", "-l", tag, from, to],
    );
    std::fs::read(raw).unwrap()
}

/// An image with two snapshots and something written after each, and what these show.
pub(super) fn with_snapshots(
    path: &Path,
    options: &str,
    cluster: u64,
    seed: u64,
) -> (Vec<u8>, Vec<u8>) {
    let mut random = Random(seed);
    let size = (cluster * 12).max(1 << 18);
    let mut content = random.bytes(size as usize);
    content[cluster as usize * 3..cluster as usize * 5].fill(0);
    let raw = path.with_extension("raw");
    std::fs::write(&raw, &content).unwrap();
    let name = interop::name(path);
    let convert = ["convert", "-f", "raw", "-O", "qcow2", "-o", options];
    run(
        "qemu-img",
        &[&convert[..], &[interop::name(&raw), name]].concat(),
    );
    run("qemu-img", &["snapshot", "-c", "first", name]);
    let len = cluster * 2;
    run(
        "qemu-io",
        &["-c", &format!("write -P 9 {} {len}", cluster * 2), name],
    );
    run("qemu-img", &["snapshot", "-c", "second", name]);
    run("qemu-io", &["-c", &format!("write -P 8 0 {len}"), name]);
    (content, shown(path, "second"))
}

#[test]
fn what_snapshots_show_stays() {
    for cluster in interop::SIZES {
        for compat in ["compat=0.10", "compat=1.1,lazy_refcounts=on"] {
            with_seed(cluster, move |exec, seed| async move {
                let directory = tempfile::tempdir().unwrap();
                let path = directory.path().join("image.qcow2");
                let options = format!("cluster_size={cluster},{compat}");
                let (first, second) = with_snapshots(&path, &options, cluster, seed);
                let layer = interop::open(&exec, &path, nothing()).await;
                let now = layer.read_all().await;
                let mut random = Random(seed);
                let mut expected = interop::scribble(&layer, now, &mut random).await;
                let len = cluster * 3;
                layer.image.discard(0, len, &*layer.below).await.unwrap();
                expected[..len as usize].fill(0);
                layer.image.close().await.unwrap();
                assert!(layer.image.check().await.unwrap().is_clean());
                assert!(layer.read_all().await == expected);
                drop(layer);
                assert_clean(&path);
                assert!(shown(&path, "first") == first);
                assert!(shown(&path, "second") == second);
                let name = interop::name(&path);
                run("qemu-img", &["snapshot", "-d", "first", name]);
                assert_clean(&path);
                assert!(shown(&path, "second") == second);
                let layer = interop::open(&exec, &path, nothing()).await;
                assert!(layer.read_all().await == expected);
            });
        }
    }
}

#[test]
fn snapshots_survive_crashes() {
    seeds(6, async |exec, seed| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("image.qcow2");
        let (first, second) = with_snapshots(&path, "cluster_size=4096", 4096, seed);
        let file = sim_with(std::fs::read(&path).unwrap(), seed);
        let layer = open_layer(&file, SMALL_CACHE, nothing()).await;
        let work = async move {
            let mut random = Random(seed);
            for _ in 0..3 {
                for _ in 0..4 {
                    let offset = random.below(60) * 4096;
                    let len = random.below(4096) as usize + 1;
                    layer.write(offset, vec![1; len]).await.unwrap();
                }
                let offset = random.below(60) * 4096;
                let below = &*layer.below;
                layer.image.discard(offset, 8192, below).await.unwrap();
                layer.image.flush().await.unwrap();
            }
        };
        for (n, bytes) in crashes_during(&exec, &file, work).await.iter().enumerate() {
            assert_no_corruption(&*reopen(bytes.clone(), &nothing()).await).await;
            if n % 25 == 0 {
                std::fs::write(&path, bytes).unwrap();
                assert!(shown(&path, "first") == first);
                assert!(shown(&path, "second") == second);
            }
        }
    });
}
