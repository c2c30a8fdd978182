mod bad_images;
mod no_room;
mod resize;

use std::{cell::Cell, path::Path, process::Command, rc::Rc};

use strata_exec::{Executor, LocalBoxFuture, Queue, mem::SgList, random};
use strata_storage::{Access, FileOptions, FileStorage, SimFile, Storage, error::IoResult};

use super::{CreateOptions, Qed, create};
use crate::{
    backing::Backing,
    below::{Below, Nothing},
};

const CACHE: usize = 1 << 16;

/// Cluster sizes, and clusters in a table: QEMU opens no image with tables of one, which the
/// specification allows.
const SHAPES: [(u64, u64); 4] = [(4096, 2), (4096, 16), (65536, 4), (2 << 20, 2)];

fn run(program: &str, arguments: &[&str], path: &Path) -> String {
    let output = Command::new(program)
        .args(arguments)
        .arg(path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    said
}

fn file(exec: &Executor, path: &Path) -> Storage {
    let file = FileStorage::open(exec, path, FileOptions::default());
    Storage::File(Rc::new(file.unwrap()))
}

async fn read(image: &Qed, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < len {
        let (at, rest) = (offset + bytes.len() as u64, (len - bytes.len()) as u64);
        let extent = image.extent(at, rest).await.unwrap();
        let part = match extent.kind {
            crate::extent::ExtentKind::Data { host_offset } => {
                let len = usize::try_from(extent.len).unwrap();
                image.file().read_vec(host_offset, len).await.unwrap()
            }
            _ => vec![0; usize::try_from(extent.len).unwrap()],
        };
        bytes.extend(part);
    }
    bytes
}

/// Writes, zeroes and discards at random places, in `model` too.
async fn scribble(image: &Qed, model: &mut [u8], seed: u64) {
    let mut random = seed;
    let mut next = |below: u64| random::next(&mut random) % below;
    let sectors = model.len() as u64 / 512;
    for round in 0..60u8 {
        let start = next(sectors);
        let bits = next(11);
        let count = (1 + next(1 << bits)).min(sectors - start);
        let (offset, len) = (start * 512, count * 512);
        let range = usize::try_from(offset).unwrap()..usize::try_from(offset + len).unwrap();
        if round % 4 == 3 {
            image
                .write_zeroes(offset, len, round % 8 == 3, &Nothing)
                .await
                .unwrap();
            model[range].fill(0);
        } else {
            let data = SgList::from_vec(vec![round + 1; range.len()]);
            image.write(offset, data, &Nothing).await.unwrap();
            model[range].fill(round + 1);
        }
        if round % 16 == 9 {
            image.flush().await.unwrap();
        }
    }
    assert!(read(image, 0, model.len()).await == model);
}

#[test]
fn qemu_reads_what_we_write() {
    for (seed, (cluster_size, table_clusters)) in (1..).zip(SHAPES) {
        let directory = tempfile::tempdir().unwrap();
        let (path, raw) = (directory.path().join("image"), directory.path().join("raw"));
        let exec = Executor::new().unwrap();
        let (host, image) = (exec.clone(), path.clone());
        let model = exec.block_on(async move {
            let file = Storage::File(Rc::new(FileStorage::create(&host, &image).unwrap()));
            let options = CreateOptions {
                size: 5 << 20,
                cluster_size,
                table_clusters,
                backing: None,
            };
            create(file.clone(), options).await.unwrap();
            let image = Qed::open(file, false, CACHE).await.unwrap();
            let mut model = vec![0; 5 << 20];
            scribble(&image, &mut model, seed).await;
            assert!(image.is_dirty());
            image.close().await.unwrap();
            model
        });
        std::fs::write(&raw, model).unwrap();
        let said = run("qemu-img", &["check", "-f", "qed"], &path);
        assert!(said.contains("No errors"), "{said}");
        let compare = ["compare", "-f", "raw", "-F", "qed", raw.to_str().unwrap()];
        run("qemu-img", &compare, &path);
    }
}

#[test]
fn we_go_on_with_what_qemu_writes() {
    for (seed, (cluster_size, table_clusters)) in (9..).zip(SHAPES) {
        let directory = tempfile::tempdir().unwrap();
        let (path, raw) = (directory.path().join("image"), directory.path().join("raw"));
        let mut bytes = vec![7; 5 << 20];
        bytes[1 << 20..3 << 20].fill(0);
        std::fs::write(&raw, &bytes).unwrap();
        let options = format!("cluster_size={cluster_size},table_size={table_clusters}");
        let convert = ["convert", "-f", "raw", "-O", "qed", "-o", &options];
        run(
            "qemu-img",
            &[&convert[..], &[raw.to_str().unwrap()]].concat(),
            &path,
        );
        // A zero cluster of QEMU's.
        run("qemu-io", &["-f", "qed", "-c", "write -q -z 2M 2M"], &path);
        bytes[2 << 20..4 << 20].fill(0);
        let exec = Executor::new().unwrap();
        let storage = file(&exec, &path);
        let model = exec.block_on(async move {
            let image = Qed::open(storage, false, CACHE).await.unwrap();
            assert!(read(&image, 0, bytes.len()).await == bytes);
            scribble(&image, &mut bytes, seed).await;
            image.close().await.unwrap();
            bytes
        });
        std::fs::write(&raw, model).unwrap();
        run("qemu-img", &["check", "-f", "qed"], &path);
        let compare = ["compare", "-f", "raw", "-F", "qed", raw.to_str().unwrap()];
        run("qemu-img", &compare, &path);
        run(
            "qemu-io",
            &["-f", "qed", "-c", "write -q -P 3 4M 64k"],
            &path,
        );
        run("qemu-img", &["check", "-f", "qed"], &path);
    }
}

/// An image of 1 MiB with its first cluster written.
fn written() -> Vec<u8> {
    let exec = Executor::new().unwrap();
    let sim = Rc::new(SimFile::new("image", Vec::new(), 0));
    let file = Storage::Sim(sim.clone());
    exec.block_on(async move {
        let options = CreateOptions {
            size: 1 << 20,
            ..Default::default()
        };
        create(file.clone(), options).await.unwrap();
        let image = Qed::open(file, false, CACHE).await.unwrap();
        let data = SgList::from_vec(vec![5; 65536]);
        image.write(0, data, &Nothing).await.unwrap();
        image.close().await.unwrap();
    });
    sim.durable_bytes()
}

/// Opens the bytes; what the first cluster reads as then, and the bytes afterwards.
fn opened(bytes: &[u8], read_only: bool) -> (Result<Vec<u8>, String>, Vec<u8>) {
    let exec = Executor::new().unwrap();
    let sim = Rc::new(SimFile::new("image", bytes.to_vec(), 0));
    let file = Storage::Sim(sim.clone());
    let found = exec.block_on(async move {
        match Qed::open(file, read_only, CACHE).await {
            Ok(image) => match image.extent(0, 65536).await {
                Ok(_) => Ok(read(&image, 0, 65536).await),
                Err(error) => Err(error.to_string()),
            },
            Err(error) => Err(error.to_string()),
        }
    });
    (found, sim.bytes())
}

fn put(bytes: &mut [u8], offset: usize, new: &[u8]) {
    bytes[offset..offset + new.len()].copy_from_slice(new);
}

/// Where the L1 table, the L2 table and the data of [`written`] lie.
const L1: usize = 65536;
const L2: usize = L1 + 4 * 65536;
const DATA: usize = L2 + 4 * 65536;

#[test]
fn broken_headers_are_refused_and_kept() {
    let good = written();
    assert_eq!(opened(&good, false).0.unwrap(), [5; 65536]);
    let broken: [(&str, usize, &[u8]); 11] = [
        ("magic", 0, b"QEX"),
        ("cluster size", 4, &3000u32.to_le_bytes()),
        ("cluster size", 4, &(1u32 << 27).to_le_bytes()),
        ("tables", 8, &3u32.to_le_bytes()),
        ("tables", 8, &0u32.to_le_bytes()),
        ("header of no clusters", 12, &0u32.to_le_bytes()),
        ("features", 16, &8u64.to_le_bytes()),
        ("L1 table", 40, &100u64.to_le_bytes()),
        ("L1 table", 40, &(1u64 << 40).to_le_bytes()),
        ("shows", 48, &u64::MAX.to_le_bytes()),
        ("shows", 48, &1000u64.to_le_bytes()),
    ];
    for (what, offset, new) in broken {
        let mut bytes = good.clone();
        put(&mut bytes, offset, new);
        for read_only in [true, false] {
            let (found, after) = opened(&bytes, read_only);
            let error = found.unwrap_err();
            assert!(what == "magic" || error.contains(what), "{what}: {error}");
            assert!(after == bytes, "{what}");
        }
    }
    let mut name = good.clone();
    put(&mut name, 16, &1u64.to_le_bytes());
    for (offset, len) in [(64u32, 2000u32), (65530, 20), (u32::MAX, u32::MAX), (64, 4)] {
        put(
            &mut name,
            56,
            &[offset.to_le_bytes(), len.to_le_bytes()].concat(),
        );
        let error = opened(&name, true).0.unwrap_err();
        assert!(error.contains("name"), "{error}");
    }
    for len in [0, 3, 63, 65536, L2 - 1] {
        opened(&good[..len], false).0.unwrap_err();
    }
}

#[test]
fn entries_that_name_no_place_are_errors_in_a_clean_image() {
    let good = written();
    for (what, at) in [("L1 entry", L1), ("L2 entry", L2)] {
        for offset in [7u64, 65536 + 512, 1 << 40, u64::MAX - 65535, L1 as u64] {
            let mut bytes = good.clone();
            put(&mut bytes, at, &offset.to_le_bytes());
            let (found, after) = opened(&bytes, false);
            let error = found.unwrap_err();
            assert!(error.contains(what), "{error}");
            assert!(after == bytes);
        }
    }
}

#[test]
fn an_image_that_was_not_closed_is_checked_before_it_is_written() {
    let mut bytes = written();
    put(&mut bytes, 16, &2u64.to_le_bytes());
    // What was allocated last, and never named; and an entry whose data never got there.
    bytes.extend([9; 65536 + 100]);
    put(&mut bytes, L2 + 8, &(1u64 << 40).to_le_bytes());
    let (found, after) = opened(&bytes, true);
    assert_eq!(found.unwrap(), [5; 65536]);
    assert!(after == bytes, "read-only means unchanged");
    let (found, after) = opened(&bytes, false);
    assert_eq!(found.unwrap(), [5; 65536]);
    assert_eq!((after.len(), after[16]), (DATA + 65536, 0));
    assert_eq!(after[L2 + 8..L2 + 16], [0; 8]);
    // A cluster with two names cannot be put right.
    put(&mut bytes, L2 + 8, &(DATA as u64).to_le_bytes());
    let (found, after) = opened(&bytes, false);
    let error = found.unwrap_err();
    assert!(error.contains("named twice"), "{error}");
    assert!(after == bytes);
}

#[test]
fn qemu_checks_what_a_crash_left() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    let mut bytes = written();
    put(&mut bytes, 16, &2u64.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    run("qemu-io", &["-f", "qed", "-c", "read -q -P 5 0 64k"], &path);
    run("qemu-img", &["check", "-f", "qed"], &path);
}

#[test]
fn backing_names_come_and_go_in_the_header() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("image");
    std::fs::write(&path, written()).unwrap();
    let exec = Executor::new().unwrap();
    for len in [4, 500, 1023, 700, 20] {
        for format in ["raw", "qcow2"] {
            let name = "x".repeat(len);
            let storage = file(&exec, &path);
            let wanted = Backing {
                name: name.clone().into(),
                format: Some(format.to_owned()),
            };
            exec.block_on(async move {
                let image = Qed::open(storage, false, CACHE).await.unwrap();
                image.set_backing(Some(wanted)).await.unwrap();
                image.close().await.unwrap();
                image.file().lock(Access::None).unwrap();
            });
            let info = run("qemu-img", &["info", "-f", "qed", "--output=json"], &path);
            let info: serde_json::Value = serde_json::from_str(&info).unwrap();
            assert_eq!(info["backing-filename"], name.as_str());
            let shown = info["backing-filename-format"].as_str();
            assert_eq!(shown, (format == "raw").then_some("raw"));
        }
    }
    let storage = file(&exec, &path);
    exec.block_on(async move {
        let image = Qed::open(storage, false, CACHE).await.unwrap();
        let long = Backing {
            name: "x".repeat(1024).into(),
            format: None,
        };
        assert!(image.set_backing(Some(long)).await.is_err());
        image.set_backing(None).await.unwrap();
        image.close().await.unwrap();
    });
    let info = run("qemu-img", &["info", "-f", "qed"], &path);
    assert!(!info.contains("backing"), "{info}");
}

/// A layer below that is full of nines.
struct Nines;

impl Below for Nines {
    fn read_below(&self, _: u64, data: SgList) -> LocalBoxFuture<'_, IoResult<()>> {
        data.fill(0, data.len(), 9);
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Writes the first sector of many clusters, with flushes in between, and cuts the power after
/// `polls`; returns the bytes that are left and how many clusters were flushed by then.
fn cut_off(seed: u64, polls: u64) -> (Vec<u8>, u64) {
    let exec = Executor::seeded(seed).unwrap();
    let sim = Rc::new(SimFile::new("image", Vec::new(), seed));
    let file = Storage::Sim(sim.clone());
    let image = exec.block_on(async move {
        let options = CreateOptions {
            size: 8 << 20,
            cluster_size: 4096,
            table_clusters: 1,
            backing: None,
        };
        create(file.clone(), options).await.unwrap();
        file.flush().await.unwrap();
        Qed::open(file, false, CACHE).await.unwrap()
    });
    let flushed = Rc::new(Cell::new(0));
    let count = flushed.clone();
    exec.spawn(Queue::Guest, async move {
        for n in 0..8 {
            // Every one in another table than the one before.
            let offset = n % 4 * (2 << 20) + n / 4 * 4096;
            let data = SgList::from_vec(vec![5; 512]);
            image.write(offset, data, &Nines).await.unwrap();
            image.flush().await.unwrap();
            count.set(n + 1);
        }
        image.close().await.unwrap();
    });
    for _ in 0..polls {
        exec.step(Queue::Guest);
    }
    (sim.crash(seed), flushed.get())
}

#[test]
fn a_crash_at_any_moment_keeps_old_data_and_what_was_flushed() {
    for seed in 0..400 {
        let (bytes, flushed) = cut_off(seed, seed % 150);
        let exec = Executor::new().unwrap();
        for read_only in [true, false] {
            let file = Storage::Sim(Rc::new(SimFile::new("image", bytes.clone(), seed)));
            exec.block_on(async move {
                let image = Qed::open(file, read_only, CACHE).await.unwrap();
                for n in 0..8 {
                    let offset = n % 4 * (2 << 20) + n / 4 * 4096;
                    let extent = image.extent(offset, 4096).await.unwrap();
                    if extent.kind == crate::extent::ExtentKind::Unallocated {
                        assert!(n >= flushed, "seed {seed}: cluster {n} is lost");
                        continue;
                    }
                    let cluster = read(&image, offset, 4096).await;
                    assert!(
                        cluster[512..] == [9; 4096 - 512],
                        "seed {seed}: old data is lost"
                    );
                    let new = if n < flushed { &[5][..] } else { &[5, 9, 0] };
                    assert!(new.contains(&cluster[0]), "seed {seed}: cluster {n}");
                }
            });
        }
    }
}
