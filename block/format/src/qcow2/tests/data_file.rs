//! External data files: the order of writes across two files, and what cannot be.

use std::rc::Rc;

use strata_exec::mem::SgList;
use strata_storage::Storage;

use super::{
    order::{base, crashes_of_several},
    support::*,
};
use crate::{
    below::Below,
    qcow2::{CreateOptions, DataFile, create},
};

const SIZE: u64 = (1 << 20) + 512;

fn options(cluster_size: u64, raw: bool, backing: bool) -> CreateOptions {
    CreateOptions {
        size: SIZE,
        cluster_size,
        backing: backing.then(base),
        data_file: Some(DataFile {
            name: "data.raw".into(),
            raw,
        }),
        ..CreateOptions::default()
    }
}

/// Rule W1 across two files: the tables may not name what the data file has not got yet.
#[test]
fn w1_data_is_durable_before_the_table_names_it() {
    for seed in 0..8 {
        with_seed(seed, |exec, seed| async move {
            let (file, data) = (sim(seed), sim(!seed));
            let below: Rc<dyn Below> = Rc::new(RawBytes(vec![0xbb; 16384]));
            let options = CreateOptions {
                size: 16384,
                ..options(4096, false, true)
            };
            create(Storage::Sim(file.clone()), options).await.unwrap();
            let layer = open_external(&file, &data, SMALL_CACHE, below.clone()).await;
            let work = async move {
                layer.write(4096 + 1024, vec![2; 512]).await.unwrap();
                layer.image.flush().await.unwrap();
            };
            let files = vec![file, data];
            for crash in crashes_of_several(&exec, files, work).await {
                let (file, data) = (sim_with(crash[0].clone(), 1), sim_with(crash[1].clone(), 1));
                let layer = open_external(&file, &data, SMALL_CACHE, below.clone()).await;
                let seen = layer.read_vec(4096, 4096).await.unwrap();
                let old = |part: &[u8]| part.iter().all(|&b| b == 0xbb);
                assert!(
                    old(&seen[..1024]) && old(&seen[1536..]),
                    "copied bytes are lost"
                );
                let written = &seen[1024..1536];
                assert!(
                    old(written) || written == [2; 512],
                    "what was never written is seen"
                );
            }
        });
    }
}

/// A guest's flush makes both files durable, also where no table has changed.
#[test]
fn a_flush_reaches_the_data_file() {
    with_seed(1, |_, seed| async move {
        let (file, data) = (sim(seed), sim(!seed));
        create(Storage::Sim(file.clone()), options(4096, true, false))
            .await
            .unwrap();
        let layer = open_external(&file, &data, SMALL_CACHE, nothing()).await;
        layer.write(8192, vec![5; 4096]).await.unwrap();
        layer.image.flush().await.unwrap();
        assert_eq!(data.durable_bytes()[8192..12288], [5; 4096]);
        let packed = layer.image.pack(&SgList::zeroed(4096)).await.unwrap();
        let error = layer.image.write_packed(0, packed).await.unwrap_err();
        assert!(error.to_string().contains("external data file"), "{error}");
        let error = layer.image.set_backing(Some(base())).await.unwrap_err();
        assert!(
            error.to_string().contains("raw external data file"),
            "{error}"
        );
    });
}
