//! Whole layers with external data files, with QEMU's tools on the other side.

use std::{path::Path, rc::Rc};

use super::{
    order::{base, crashes_of_several},
    support::*,
};
use crate::{
    below::Below,
    engine::create_image,
    error::Error,
    exec::Executor,
    graph::{
        Format, Node,
        chain::{ImageOptions, Opener},
    },
    mem::SgList,
    qcow2::{CreateOptions, DataFile, create},
    storage::{FileOptions, FileStorage, Storage},
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

async fn open(exec: &Rc<Executor>, path: &Path) -> Result<Rc<Node>, Error> {
    let options = ImageOptions {
        format: Some(Format::Qcow2),
        discard: true,
        ..ImageOptions::default()
    };
    Opener::new(exec.clone()).open(path, &options).await
}

async fn read_all(node: &Rc<Node>) -> Vec<u8> {
    let data = SgList::zeroed(SIZE as usize);
    node.read(0, data.clone()).await.unwrap();
    data.to_vec()
}

/// Random requests; returns what the disk then holds.
async fn scribble(node: &Rc<Node>, mut expected: Vec<u8>, random: &mut Random) -> Vec<u8> {
    for n in 0..60 {
        let offset = random.below(SIZE / 512) * 512;
        let len = (random.below(300) * 512 + 512).min(SIZE - offset);
        let range = offset as usize..(offset + len) as usize;
        match random.below(5) {
            0 => {
                let unmap = random.chance(50);
                node.write_zeroes(offset, len, unmap).await.unwrap();
                expected[range].fill(0);
            }
            1 => {
                node.discard(offset, len).await.unwrap();
                let seen = read_all(node).await;
                assert!(
                    seen[range.clone()]
                        .iter()
                        .zip(&expected[range.clone()])
                        .all(|(s, e)| *s == 0 || s == e),
                    "a discard uncovered something"
                );
                expected[range.clone()].copy_from_slice(&seen[range]);
            }
            _ => {
                let bytes = random.bytes(len as usize);
                node.write(offset, SgList::from_vec(bytes.clone()))
                    .await
                    .unwrap();
                expected[range].copy_from_slice(&bytes);
            }
        }
        if n % 20 == 0 {
            node.flush().await.unwrap();
        }
    }
    assert!(read_all(node).await == expected);
    node.close().await.unwrap();
    expected
}

#[test]
fn both_ways() {
    for (n, cluster) in [512, 4096, 65536, 2 << 20].into_iter().enumerate() {
        for (raw, backing) in [(false, false), (false, true), (true, false)] {
            with_seed(n as u64, move |exec, seed| {
                there_and_back(exec, seed, options(cluster, raw, backing))
            });
        }
    }
}

#[test]
fn subclusters_both_ways() {
    for (n, cluster) in [16384, 65536].into_iter().enumerate() {
        for (raw, backing) in [(false, true), (true, false)] {
            with_seed(100 + n as u64, move |exec, seed| {
                let options = CreateOptions {
                    extended_l2: true,
                    ..options(cluster, raw, backing)
                };
                there_and_back(exec, seed, options)
            });
        }
    }
}

/// Written by us, by QEMU, and by us again.
async fn there_and_back(exec: Rc<Executor>, seed: u64, options: CreateOptions) {
    let mut random = Random(seed);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (image, data) = (at("image.qcow2"), at("data.raw"));
    let raw = options.data_file.as_ref().is_some_and(|file| file.raw);
    let mut expected = vec![0; SIZE as usize];
    if options.backing.is_some() {
        // Shorter than the disk.
        expected[..1 << 20].copy_from_slice(&random.bytes(1 << 20));
        std::fs::write(at("base.raw"), &expected[..1 << 20]).unwrap();
    }
    create_image(&exec, &image, options).await.unwrap();
    let node = open(&exec, &image).await.unwrap();
    expected = scribble(&node, expected, &mut random).await;
    drop(node);
    agrees(folder.path(), &expected, raw);
    qemu_io(
        folder.path(),
        &[
            "write -P 7 300k 100k",
            "write -z 10k 200k",
            "discard 512k 256k",
        ],
    );
    expected[300 << 10..400 << 10].fill(7);
    expected[10 << 10..210 << 10].fill(0);
    let node = open(&exec, &image).await.unwrap();
    let seen = read_all(&node).await;
    // How much of a discard is done depends on the cluster size.
    let discarded = 512 << 10..768 << 10;
    assert!(seen[..discarded.start] == expected[..discarded.start]);
    assert!(seen[discarded.end..] == expected[discarded.end..]);
    let expected = scribble(&node, seen, &mut random).await;
    drop(node);
    agrees(folder.path(), &expected, raw);
    if raw {
        assert_eq!(std::fs::metadata(data).unwrap().len(), SIZE);
    }
}

fn qemu_io(folder: &Path, commands: &[&str]) {
    let image = folder.join("image.qcow2");
    // QEMU looks for a data file in the working directory.
    let data = folder.join("data.raw");
    let target = format!(
        "driver=qcow2,discard=unmap,file.filename={},data-file.driver=file,data-file.filename={}",
        image.display(),
        data.display()
    );
    let mut args = vec!["--image-opts"];
    args.extend(commands.iter().flat_map(|command| ["-c", command]));
    args.push(&target);
    run("qemu-io", &args);
}

/// QEMU sees `expected` too, and nothing wrong; a raw data file is that and nothing else.
fn agrees(folder: &Path, expected: &[u8], raw: bool) {
    let path = |name: &str| folder.join(name).display().to_string();
    std::fs::write(path("expected.raw"), expected).unwrap();
    let target = format!(
        "driver=qcow2,file.filename={},data-file.driver=file,data-file.filename={}",
        path("image.qcow2"),
        path("data.raw")
    );
    let other = format!("driver=raw,file.filename={}", path("expected.raw"));
    run("qemu-img", &["compare", "--image-opts", &target, &other]);
    run("qemu-img", &["check", "--image-opts", &target]);
    if raw {
        let data = std::fs::read(path("data.raw")).unwrap();
        assert!(data == expected, "the raw data file is not the disk");
    }
}

/// Two programs cannot meet in a data file, whatever image names it.
#[test]
fn data_files_are_locked() {
    with_seed(1, |exec, _| async move {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        create_image(&exec, &at("a.qcow2"), options(65536, false, false))
            .await
            .unwrap();
        std::fs::copy(at("a.qcow2"), at("b.qcow2")).unwrap();
        let node = open(&exec, &at("a.qcow2")).await.unwrap();
        let error = open(&exec, &at("b.qcow2")).await.err().unwrap().to_string();
        assert!(
            error.contains("its data file cannot be used")
                && error.contains("Failed to get \"write\" lock"),
            "{error}"
        );
        node.close().await.unwrap();
        open(&exec, &at("b.qcow2")).await.unwrap();
        // As a backing file it is shared by readers, and kept from writers.
        let read_only = ImageOptions {
            read_only: true,
            ..ImageOptions::default()
        };
        let opener = Opener::new(exec.clone());
        let _one = opener.open(&at("a.qcow2"), &read_only).await.unwrap();
        let _two = opener.open(&at("b.qcow2"), &read_only).await.unwrap();
        let writer = FileStorage::open(&exec, &at("data.raw"), FileOptions::default());
        assert!(matches!(writer, Err(Error::Locked { .. })));
    });
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
