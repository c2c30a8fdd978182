//! Lazy refcounts and the dirty bit.

use std::{process::Command, rc::Rc};

use strata_storage::Storage;

use super::{interop, order::*, support::*};
use crate::{
    below::Below,
    qcow2::{CreateOptions, OpenOptions, Qcow2},
};

const READ_ONLY: OpenOptions = OpenOptions {
    read_only: true,
    ..SMALL_CACHE
};

fn lazy(size: u64) -> CreateOptions {
    CreateOptions {
        lazy_refcounts: true,
        ..with_base(size, 4096)
    }
}

fn below() -> Rc<dyn Below> {
    Rc::new(RawBytes(vec![0xbb; 1 << 20]))
}

#[test]
fn w5_the_dirty_bit_is_durable_while_refcounts_are_late() {
    seeds(8, async |exec, seed| {
        let file = sim(seed);
        let layer = new_layer(&file, lazy(1 << 20), SMALL_CACHE, below()).await;
        let work = async move {
            for n in 0..3u64 {
                layer.write(n * 8192, vec![1; 8192]).await.unwrap();
                layer.image.flush().await.unwrap();
            }
            layer.image.discard(0, 8192, &*layer.below).await.unwrap();
            layer.image.close().await.unwrap();
            layer.write(1 << 19, vec![2; 8192]).await.unwrap();
            layer.image.close().await.unwrap();
        };
        let (mut clean, mut stale) = (0, 0);
        for bytes in crashes_during(&exec, &file, work).await {
            let file = sim_with(bytes, 1);
            let image = Qcow2::open(Storage::Sim(file.clone()), READ_ONLY);
            let image = image.await.unwrap();
            let report = image.check().await.unwrap();
            let dirty = image.is_dirty();
            if dirty {
                stale += u32::from(report.corruptions > 0);
            } else {
                assert_eq!(report.corruptions, 0, "{report:#?}");
                clean += 1;
            }
            let layer = open_layer(&file, SMALL_CACHE, below()).await;
            assert!(!layer.image.is_dirty());
            let report = layer.image.check().await.unwrap();
            assert!(report.is_clean() || !dirty, "{report:#?}");
        }
        assert!(clean > 0 && stale > 0, "{clean} clean, {stale} stale");
        check_bytes(&file.bytes(), false);
    });
}

#[test]
fn a_crash_while_refcounts_are_counted_anew_loses_nothing() {
    seeds(4, async |exec, seed| {
        let file = sim(seed);
        let layer = new_layer(&file, lazy(1 << 20), SMALL_CACHE, below()).await;
        layer.write(4096, vec![1; 40960]).await.unwrap();
        layer.image.flush().await.unwrap();
        let file = sim_with(file.durable_bytes(), seed);
        let opened = file.clone();
        let work = async move {
            open_layer(&opened, SMALL_CACHE, below()).await;
        };
        for bytes in crashes_during(&exec, &file, work).await {
            let layer = reopen(bytes, &below()).await;
            assert!(layer.image.check().await.unwrap().is_clean());
            assert_eq!(layer.read_vec(4096, 40960).await.unwrap(), [1; 40960]);
        }
    });
}

#[test]
fn what_qemu_has_left_dirty_is_put_right() {
    for bits in [1, 16, 64] {
        with_seed(bits, move |exec, _| async move {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("image.qcow2");
            let name = interop::name(&path);
            let options = format!("lazy_refcounts=on,refcount_bits={bits}");
            run(
                "qemu-img",
                &["create", "-f", "qcow2", "-o", &options, name, "8M"],
            );
            let writes = ["-c", "write -P 7 0 1M", "-c", "flush", "-c", "abort"];
            let killed = Command::new("qemu-io")
                .args([&writes[..], &[name]].concat())
                .output();
            assert!(!killed.unwrap().status.success());
            let bytes = std::fs::read(&path).unwrap();
            assert_eq!(bytes[79] & 1, 1, "QEMU has not left it dirty");
            let layer = interop::open(&exec, &path, nothing()).await;
            assert_eq!(layer.read_vec(0, 1 << 20).await.unwrap(), vec![7; 1 << 20]);
            layer.image.close().await.unwrap();
            drop(layer);
            assert_clean(&path);
            // And the other way round: a layer that is dropped was not closed.
            let layer = interop::open(&exec, &path, nothing()).await;
            layer.write(2 << 20, vec![9; 1 << 20]).await.unwrap();
            layer.image.flush().await.unwrap();
            drop(layer);
            run("qemu-img", &["check", "-r", "all", name]);
            run(
                "qemu-io",
                &["-c", "read -P 9 2M 1M", "-c", "write -P 3 4M 64k", name],
            );
            assert_clean(&path);
        });
    }
}

#[test]
fn a_dirty_image_that_is_damaged_is_left_alone() {
    with_seed(1, |_, seed| async move {
        let file = sim(seed);
        let layer = new_layer(&file, lazy(1 << 20), SMALL_CACHE, below()).await;
        layer.write(0, vec![1; 4096]).await.unwrap();
        layer.image.flush().await.unwrap();
        let mut bytes = file.bytes();
        let l1 = u64::from_be_bytes(bytes[40..48].try_into().unwrap()) as usize;
        let l2 = u64::from_be_bytes(bytes[l1..l1 + 8].try_into().unwrap()) << 1 >> 1;
        let entry = 1u64 << 63 | 1 << 40;
        bytes[l2 as usize + 8..l2 as usize + 16].copy_from_slice(&entry.to_be_bytes());
        let file = sim_with(bytes.clone(), seed);
        let error = Qcow2::open(Storage::Sim(file.clone()), SMALL_CACHE).await;
        let error = error.err().unwrap().to_string();
        assert!(error.contains("repair it with"), "{error}");
        assert!(file.bytes() == bytes);
    });
}

#[test]
fn every_refcount_width_both_ways() {
    for bits in [1, 2, 4, 8, 16, 32, 64] {
        with_seed(bits, move |exec, seed| async move {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("image.qcow2");
            let name = interop::name(&path);
            let options = format!("cluster_size=4096,refcount_bits={bits}");
            run(
                "qemu-img",
                &["create", "-f", "qcow2", "-o", &options, name, "4M"],
            );
            run("qemu-io", &["-c", "write -P 7 0 1M", name]);
            let layer = interop::open(&exec, &path, nothing()).await;
            let mut expected = vec![0; 4 << 20];
            expected[..1 << 20].fill(7);
            let expected = interop::scribble(&layer, expected, &mut Random(seed)).await;
            drop(layer);
            assert_clean(&path);
            run("qemu-io", &["-c", "write -P 5 3M 1M", name]);
            assert_clean(&path);
            let layer = interop::open(&exec, &path, nothing()).await;
            let seen = layer.read_all().await;
            assert!(seen[..3 << 20] == expected[..3 << 20]);
            assert!(seen[3 << 20..] == vec![5; 1 << 20]);
        });
    }
}
