//! Whole layers with external data files, with QEMU's tools on the other side.

use std::{path::Path, process::Command, rc::Rc};

use strata_exec::{Executor, mem::SgList, random};
use strata_format::{
    backing::Backing,
    qcow2::{CreateOptions, DataFile},
};
use strata_storage::{FileOptions, FileStorage, error::Error};

use super::support::{below, read_all};
use crate::{
    Format, Node,
    chain::{ImageOptions, Opener},
    create_image,
};

const SIZE: u64 = (1 << 20) + 512;

fn options(cluster_size: u64, raw: bool, backing: bool) -> CreateOptions {
    CreateOptions {
        size: SIZE,
        cluster_size,
        backing: backing.then(|| Backing {
            name: "base.raw".into(),
            format: Some("raw".into()),
        }),
        data_file: Some(DataFile {
            name: "data.raw".into(),
            raw,
        }),
        ..CreateOptions::default()
    }
}

/// `len` random bytes.
fn bytes(random: &mut u64, len: usize) -> Vec<u8> {
    let words = std::iter::repeat_with(|| random::next(random).to_le_bytes());
    words.flatten().take(len).collect()
}

/// Runs a test with one seed, which is shown if it fails.
fn with_seed<F: Future<Output = ()> + 'static>(
    seed: u64,
    test: impl FnOnce(Rc<Executor>, u64) -> F,
) {
    let exec = Executor::seeded(seed).unwrap();
    eprintln!("seed {seed}");
    exec.block_on(test(exec.clone(), seed));
}

/// Runs a command; panics unless it succeeds.
fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {args:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

async fn open(exec: &Rc<Executor>, path: &Path) -> Result<Rc<Node>, Error> {
    let options = ImageOptions {
        format: Some(Format::Qcow2),
        discard: true,
        ..ImageOptions::default()
    };
    Opener::new(exec.clone()).open(path, &options).await
}

/// Random requests; returns what the disk then holds.
async fn scribble(node: &Rc<Node>, mut expected: Vec<u8>, random: &mut u64) -> Vec<u8> {
    for n in 0..60 {
        let offset = below(random, SIZE / 512) * 512;
        let len = (below(random, 300) * 512 + 512).min(SIZE - offset);
        let range = offset as usize..(offset + len) as usize;
        match below(random, 5) {
            0 => {
                let unmap = below(random, 100) < 50;
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
                let bytes = bytes(random, len as usize);
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
    node.image().close().await.unwrap();
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
    let mut random = seed;
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let (image, data) = (at("image.qcow2"), at("data.raw"));
    let raw = options.data_file.as_ref().is_some_and(|file| file.raw);
    let mut expected = vec![0; SIZE as usize];
    if options.backing.is_some() {
        // Shorter than the disk.
        expected[..1 << 20].copy_from_slice(&bytes(&mut random, 1 << 20));
        std::fs::write(at("base.raw"), &expected[..1 << 20]).unwrap();
    }
    create_image(&exec, &image, options).await.unwrap();
    let node = open(&exec, &image).await.unwrap();
    expected = scribble(&node, expected, &mut random).await;
    drop(node);
    agrees(directory.path(), &expected, raw);
    qemu_io(
        directory.path(),
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
    agrees(directory.path(), &expected, raw);
    if raw {
        assert_eq!(std::fs::metadata(data).unwrap().len(), SIZE);
    }
}

fn qemu_io(directory: &Path, commands: &[&str]) {
    let image = directory.join("image.qcow2");
    // QEMU looks for a data file in the working directory.
    let data = directory.join("data.raw");
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
fn agrees(directory: &Path, expected: &[u8], raw: bool) {
    let path = |name: &str| directory.join(name).display().to_string();
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
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
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
        node.image().close().await.unwrap();
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
