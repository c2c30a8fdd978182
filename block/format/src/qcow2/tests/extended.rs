//! Extended L2 entries on real files, both ways: what we write QEMU's tools read, and what they
//! write we read.

use std::{
    path::{Path, PathBuf},
    rc::Rc,
};

use strata_exec::mem::SgList;
use strata_storage::{FileStorage, Storage};

use super::{
    compressed::compressible,
    interop::{self, name},
    snapshots,
    support::*,
};
use crate::{
    backing::Backing,
    qcow2::{CreateOptions, Preallocation, create},
};

const SIZES: [u64; 3] = [16 << 10, 64 << 10, 2 << 20];

/// A directory with `base.raw`, which is a little shorter than the disks over it.
struct Files {
    directory: tempfile::TempDir,
    base: Vec<u8>,
}

impl Files {
    fn new(random: &mut Random, size: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let base = random.bytes(size as usize - 5 * 512);
        std::fs::write(directory.path().join("base.raw"), &base).unwrap();
        Self { directory, base }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What an empty layer over the base shows.
    fn shown(&self) -> Vec<u8> {
        let mut shown = self.base.clone();
        shown.resize(shown.len() + 5 * 512, 0);
        shown
    }

    async fn open(&self, exec: &strata_exec::Executor) -> Layer {
        let below = Rc::new(RawBytes(self.base.clone()));
        interop::open(exec, &self.path("image.qcow2"), below).await
    }

    /// QEMU finds nothing wrong, and sees the same bytes.
    fn assert_seen(&self, expected: &[u8]) {
        let (image, raw) = (self.path("image.qcow2"), self.path("expected.raw"));
        std::fs::write(&raw, expected).unwrap();
        assert_clean(&image);
        run("qemu-img", &["compare", name(&raw), name(&image)]);
    }
}

fn disk_size(cluster: u64) -> u64 {
    (cluster * 7 + 1536).max(1 << 18)
}

/// Random requests by qemu-io at odd offsets; returns what the disk then holds.
fn qemu_scribbles(
    path: &Path,
    mut expected: Vec<u8>,
    cluster: u64,
    random: &mut Random,
) -> Vec<u8> {
    let size = expected.len() as u64;
    let mut args = vec!["-f".to_owned(), "qcow2".to_owned()];
    for n in 0..30 {
        let offset = random.below(size / 512) * 512;
        let most = (size - offset).min(if random.chance(70) {
            cluster / 4
        } else {
            2 * cluster
        });
        let len = random.below(most / 512) * 512 + 512;
        let range = offset as usize..(offset + len) as usize;
        let byte = n + 1;
        let (command, fill) = match random.below(10) {
            0..6 => (format!("write -P {byte} {offset} {len}"), byte),
            6..8 => (format!("write -z {offset} {len}"), 0),
            _ => (format!("write -z -u {offset} {len}"), 0),
        };
        expected[range].fill(fill);
        args.extend(["-c".to_owned(), command]);
    }
    args.push(name(path).to_owned());
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    run("qemu-io", &args);
    expected
}

#[test]
fn qemu_reads_what_we_write_and_goes_on() {
    for (n, cluster) in SIZES.into_iter().enumerate() {
        for preallocation in [Preallocation::Off, Preallocation::Metadata] {
            let seed = n as u64 * 2 + u64::from(preallocation == Preallocation::Metadata);
            with_seed(seed, move |exec, seed| async move {
                let mut random = Random(seed);
                let size = disk_size(cluster);
                let files = Files::new(&mut random, size);
                let path = files.path("image.qcow2");
                let options = CreateOptions {
                    size,
                    cluster_size: cluster,
                    extended_l2: true,
                    preallocation,
                    backing: Some(Backing {
                        name: "base.raw".into(),
                        format: Some("raw".into()),
                    }),
                    ..CreateOptions::default()
                };
                let file = FileStorage::create(&exec, &path).unwrap();
                create(Storage::File(Rc::new(file)), options).await.unwrap();
                let mut expected = files.shown();
                files.assert_seen(&expected);
                for _ in 0..2 {
                    let layer = files.open(&exec).await;
                    assert!(layer.read_all().await == expected);
                    expected = interop::scribble(&layer, expected, &mut random).await;
                    drop(layer);
                    files.assert_seen(&expected);
                    expected = qemu_scribbles(&path, expected, cluster, &mut random);
                }
                let layer = files.open(&exec).await;
                assert!(layer.read_all().await == expected);
                let report = layer.image.check().await.unwrap();
                assert!(report.is_clean(), "{report:#?}");
            });
        }
    }
}

#[test]
fn we_read_what_qemu_writes_and_go_on() {
    for (n, cluster) in SIZES.into_iter().enumerate() {
        for more in [
            "",
            ",preallocation=metadata",
            ",refcount_bits=1,lazy_refcounts=on",
        ] {
            with_seed(40 + n as u64, move |exec, seed| async move {
                let mut random = Random(seed);
                let size = disk_size(cluster);
                let files = Files::new(&mut random, size);
                let path = files.path("image.qcow2");
                let options = format!("extended_l2=on,cluster_size={cluster}{more}");
                let base = files.path("base.raw");
                let backing = ["-b", name(&base), "-F", "raw", "-o", &options];
                let create = ["create", "-q", "-f", "qcow2"];
                let len = size.to_string();
                run(
                    "qemu-img",
                    &[&create[..], &backing, &[name(&path), &len]].concat(),
                );
                let expected = files.shown();
                let expected = qemu_scribbles(&path, expected, cluster, &mut random);
                let layer = files.open(&exec).await;
                assert!(layer.read_all().await == expected);
                // Odd places alone, too.
                for _ in 0..50 {
                    let offset = random.below(size - 3000);
                    let seen = layer.read_vec(offset, 3000).await.unwrap();
                    assert!(seen == expected[offset as usize..][..3000]);
                }
                let expected = interop::scribble(&layer, expected, &mut random).await;
                assert!(layer.image.check().await.unwrap().is_clean());
                drop(layer);
                files.assert_seen(&expected);
            });
        }
    }
}

#[test]
fn compressed_clusters_have_no_subclusters() {
    for (n, kind) in ["zlib", "zstd"].into_iter().enumerate() {
        with_seed(60 + n as u64, move |exec, seed| async move {
            let cluster = 64 << 10;
            let mut random = Random(seed);
            let size = disk_size(cluster);
            let content = compressible(&mut random, size as usize);
            let files = Files::new(&mut random, size);
            let path = files.path("image.qcow2");
            let kind = format!("{kind},extended_l2=on");
            std::fs::write(&path, qemu_compressed(&content, cluster, &kind)).unwrap();
            let layer = interop::open(&exec, &path, nothing()).await;
            assert!(layer.read_all().await == content);
            let mut expected = interop::scribble(&layer, content, &mut random).await;
            drop(layer);
            files.assert_seen(&expected);
            // And we pack over what subclusters hold.
            let layer = interop::open(&exec, &path, nothing()).await;
            for n in [1, 3] {
                let range = (n * cluster) as usize..((n + 1) * cluster) as usize;
                let packed = compressible(&mut random, cluster as usize);
                expected[range].copy_from_slice(&packed);
                let data = SgList::from_vec(packed);
                let packed = layer.image.pack(&data).await.unwrap();
                layer.image.write_packed(n * cluster, packed).await.unwrap();
            }
            // A part of a compressed cluster is no discard; the rest of the range is.
            let (offset, len) = (cluster + 2048, cluster / 2);
            layer
                .image
                .discard(offset, len, &*layer.below)
                .await
                .unwrap();
            layer.image.close().await.unwrap();
            let report = layer.image.check().await.unwrap();
            assert!(
                report.is_clean() && report.compressed_clusters >= 2,
                "{report:#?}"
            );
            drop(layer);
            files.assert_seen(&expected);
        });
    }
}

#[test]
fn what_snapshots_show_stays() {
    for cluster in SIZES {
        with_seed(cluster, move |exec, seed| async move {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("image.qcow2");
            let options = format!("cluster_size={cluster},extended_l2=on");
            let (first, second) = snapshots::with_snapshots(&path, &options, cluster, seed);
            let layer = interop::open(&exec, &path, nothing()).await;
            let mut random = Random(seed);
            let now = layer.read_all().await;
            let mut expected = interop::scribble(&layer, now, &mut random).await;
            let len = cluster + cluster / 32;
            layer.image.discard(0, len, &*layer.below).await.unwrap();
            expected[..len as usize].fill(0);
            layer.image.close().await.unwrap();
            assert!(layer.image.check().await.unwrap().is_clean());
            assert!(layer.read_all().await == expected);
            drop(layer);
            assert_clean(&path);
            assert!(snapshots::shown(&path, "first") == first);
            assert!(snapshots::shown(&path, "second") == second);
            run("qemu-img", &["snapshot", "-a", "first", name(&path)]);
            let layer = interop::open(&exec, &path, nothing()).await;
            assert!(layer.read_all().await == first);
        });
    }
}
