use std::rc::Rc;

use strata_exec::Executor;
use strata_storage::SimFile;

use super::*;
use crate::qcow2::{OpenOptions, Qcow2};

fn options(size: u64, cluster_size: u64) -> CreateOptions {
    CreateOptions {
        size,
        cluster_size,
        ..CreateOptions::default()
    }
}

/// Makes an image, checks it, and returns its bytes.
fn made(options: CreateOptions) -> Vec<u8> {
    let file = Rc::new(SimFile::new("sim", Vec::new(), 1));
    let storage = Storage::Sim(file.clone());
    Executor::new().unwrap().block_on(async move {
        create(storage.clone(), options).await.unwrap();
        let image = Qcow2::open(storage, OpenOptions::default()).await.unwrap();
        let report = image.check().await.unwrap();
        assert!(report.is_clean(), "{report:#?}");
    });
    assert!(
        file.durable_bytes() == file.bytes(),
        "not all of it is durable"
    );
    file.bytes()
}

#[test]
fn sizes_and_widths() {
    for cluster in [512, 4096, 65536, 2 << 20] {
        for size in [0, 512, 1 << 20, (4 << 20) + 512] {
            assert_eq!(made(options(size, cluster)).len() as u64 % cluster, 0);
        }
    }
    for refcount_bits in [1, 2, 4, 8, 32, 64] {
        made(CreateOptions {
            refcount_bits,
            ..options(1 << 20, 4096)
        });
    }
}

#[test]
fn preallocated_tables_need_refcount_blocks_of_their_own() {
    for refcount_bits in [1, 16, 64] {
        let bytes = made(CreateOptions {
            refcount_bits,
            preallocation: Preallocation::Metadata,
            ..options((1 << 20) + 512, 512)
        });
        assert!(bytes.len() > 1 << 20);
    }
}

#[test]
fn wrong_options_are_told_apart() {
    let why = |options: CreateOptions| options.geometry().unwrap_err();
    assert!(why(options(1 << 20, 1000)).contains("power of two"));
    assert!(why(options(1 << 20, 4 << 20)).contains("2048k"));
    assert!(why(options(u64::MAX, 65536)).contains("too large"));
    assert!(why(options(1 << 40, 512)).contains("try using a larger cluster size"));
    let old = CreateOptions {
        version: 2,
        ..options(1 << 20, 65536)
    };
    assert!(old.geometry().is_ok());
    assert!(
        why(CreateOptions {
            refcount_bits: 8,
            ..old.clone()
        })
        .contains("version=v3")
    );
    assert!(
        why(CreateOptions {
            lazy_refcounts: true,
            ..old
        })
        .contains("version=v3")
    );
}
