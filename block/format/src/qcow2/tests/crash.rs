//! Random requests with crashes in between: what was flushed is there, what was not is old or new,
//! and the tables never contradict each other.

use std::{cell::RefCell, rc::Rc};

use strata_exec::{Executor, LocalBoxFuture, mem::SgList, random, yield_now};
use strata_storage::{SimFile, Storage};

use super::support::*;
use crate::{
    backing::Backing,
    below::Below,
    qcow2::{CreateOptions, DataFile, OpenOptions, create},
};

const SECTOR: u64 = 512;

/// What a sector of the disk may hold, oldest first: one 64-bit word, 64 times.
#[derive(Clone)]
struct Sector {
    /// A word, and whether the request that wrote it has completed.
    values: Vec<(u64, bool)>,
}

/// What the disk may hold after a crash.
#[derive(Clone)]
struct History(Vec<Sector>);

/// A crash.
struct Crash {
    /// What the file held.
    bytes: Vec<u8>,
    /// What the external data file held.
    data: Option<Vec<u8>>,
    /// What may be seen.
    history: History,
    /// A number to tell it by.
    seed: u64,
}

impl History {
    fn new(words: Vec<u64>) -> Self {
        let values = |word| vec![(word, true)];
        Self(
            words
                .into_iter()
                .map(|w| Sector { values: values(w) })
                .collect(),
        )
    }

    fn start(&mut self, sectors: std::ops::Range<u64>, word: u64) {
        for sector in sectors {
            self.0[sector as usize].values.push((word, false));
        }
    }

    fn complete(&mut self, sectors: std::ops::Range<u64>) {
        for sector in sectors {
            let last = self.0[sector as usize].values.last_mut().unwrap();
            last.1 = true;
        }
    }

    /// What a flush that starts now makes durable: for every sector the place of the last completed
    /// value.
    fn completed(&self) -> Vec<u64> {
        let words = self
            .0
            .iter()
            .map(|sector| sector.values.iter().rfind(|(_, done)| *done).unwrap().0);
        words.collect()
    }

    /// Such a flush has ended.
    fn durable(&mut self, words: &[u64]) {
        for (sector, word) in self.0.iter_mut().zip(words) {
            if let Some(at) = sector.values.iter().position(|(value, _)| value == word) {
                sector.values.drain(..at);
            }
        }
    }
}

fn word(bytes: &[u8], sector: usize) -> u64 {
    let at = sector * SECTOR as usize;
    let word = &bytes[at..at + 8];
    let all = bytes[at..at + SECTOR as usize].chunks(8);
    assert!(all.clone().all(|w| w == word), "sector {sector} is torn");
    u64::from_le_bytes(word.try_into().unwrap())
}

fn fill(words: impl Iterator<Item = u64>) -> Vec<u8> {
    words.flat_map(|w| w.to_le_bytes().repeat(64)).collect()
}

struct Run {
    layer: Rc<Layer>,
    file: Rc<SimFile>,
    data: Option<Rc<SimFile>>,
    history: Rc<RefCell<History>>,
    crashes: Rc<RefCell<Vec<Crash>>>,
    tag: u64,
}

impl Run {
    /// One random request on sectors that no other request of the round uses.
    fn request(
        &mut self,
        taken: &mut Vec<std::ops::Range<u64>>,
        random: &mut Random,
    ) -> Option<LocalBoxFuture<'static, ()>> {
        let sectors = self.layer.image.virtual_size() / SECTOR;
        let per_cluster = self.layer.image.cluster_size() / SECTOR;
        // Within one cluster half of the time: there they meet most.
        let most = per_cluster * if random.chance(50) { 1 } else { 4 };
        let mut start = random.below(sectors);
        let mut end = (start + 1 + random.below(most)).min(sectors);
        let kind = random.below(10);
        if kind >= 6 {
            start -= start % per_cluster;
            end = end.next_multiple_of(per_cluster).min(sectors);
        }
        let range = start..end;
        if taken.iter().any(|t| t.start < end && start < t.end) {
            return None;
        }
        taken.push(range.clone());
        self.tag += 1;
        let tag = self.tag << 32;
        let (layer, history) = (self.layer.clone(), self.history.clone());
        let (offset, len) = (start * SECTOR, (end - start) * SECTOR);
        Some(match kind {
            0..6 => {
                history.borrow_mut().start(range.clone(), tag);
                Box::pin(async move {
                    let bytes = fill(range.clone().map(|_| tag));
                    layer.write(offset, bytes).await.unwrap();
                    history.borrow_mut().complete(range);
                })
            }
            6..8 => {
                history.borrow_mut().start(range.clone(), 0);
                Box::pin(async move {
                    let image = &layer.image;
                    image
                        .write_zeroes(offset, len, true, &*layer.below)
                        .await
                        .unwrap();
                    history.borrow_mut().complete(range);
                })
            }
            8 => {
                history.borrow_mut().start(range.clone(), 0);
                Box::pin(async move {
                    layer
                        .image
                        .discard(offset, len, &*layer.below)
                        .await
                        .unwrap();
                    let now = layer.read_vec(offset, len as usize).await.unwrap();
                    let mut history = history.borrow_mut();
                    for (n, sector) in range.enumerate() {
                        history.start(sector..sector + 1, word(&now, n));
                        history.complete(sector..sector + 1);
                    }
                })
            }
            _ => Box::pin(async move {
                let data = SgList::zeroed(len as usize);
                layer.below.read_below(offset, data.clone()).await.unwrap();
                let image = &layer.image;
                image
                    .write_if_unallocated(offset, data, &*layer.below)
                    .await
                    .unwrap();
            }),
        })
    }

    fn flush(&self) -> LocalBoxFuture<'static, ()> {
        let (layer, history) = (self.layer.clone(), self.history.clone());
        Box::pin(async move {
            let completed = history.borrow().completed();
            layer.image.flush().await.unwrap();
            history.borrow_mut().durable(&completed);
        })
    }

    /// Crashes, without any harm to this run, after a random while.
    fn crash(&self, random: &mut Random) -> LocalBoxFuture<'static, ()> {
        let (file, data) = (self.file.clone(), self.data.clone());
        let history = self.history.clone();
        let crashes = self.crashes.clone();
        let (wait, seed) = (random.below(60), random.below(u64::MAX));
        Box::pin(async move {
            for _ in 0..wait {
                yield_now().await;
            }
            crashes.borrow_mut().push(Crash {
                bytes: file.crash(seed),
                // Another disk loses other sectors.
                data: data.map(|data| data.crash(!seed)),
                history: history.borrow().clone(),
                seed,
            });
        })
    }
}

impl Crash {
    /// The files as they are found afterwards.
    fn files(&self) -> (Rc<SimFile>, Option<Rc<SimFile>>) {
        let file = |bytes: &Vec<u8>| sim_with(bytes.clone(), self.seed);
        (file(&self.bytes), self.data.as_ref().map(file))
    }
}

async fn open(
    file: &Rc<SimFile>,
    data: Option<&Rc<SimFile>>,
    open: OpenOptions,
    below: Rc<dyn Below>,
) -> Rc<Layer> {
    match data {
        Some(data) => open_external(file, data, open, below).await,
        None => open_layer(file, open, below).await,
    }
}

/// Opens what a crash has left, compares and checks it.
async fn survives(crash: &Crash, below: Rc<dyn Below>, with_qemu: bool) {
    let Crash { history, seed, .. } = crash;
    let (file, data) = crash.files();
    let layer = open(&file, data.as_ref(), SMALL_CACHE, below).await;
    let seen = layer.read_all().await;
    if let (Some(data), Some(DataFile { raw: true, .. })) = (data, layer.image.data_file()) {
        assert!(data.bytes() == seen, "the raw data file is not the disk");
    }
    for (n, sector) in history.0.iter().enumerate() {
        let word = word(&seen, n);
        assert!(
            sector.values.iter().any(|(value, _)| *value == word),
            "sector {n} holds {word:#x}, which is none of {:x?} (crash {seed})",
            sector.values
        );
    }
    let report = layer.image.check().await.unwrap();
    assert_eq!(
        (report.corruptions, report.check_errors),
        (0, 0),
        "{report:#?}"
    );
    if with_qemu {
        layer.image.close().await.unwrap();
        check_bytes(&file.bytes(), true);
    }
}

/// What a run starts with.
#[derive(Clone, Copy, PartialEq)]
enum Start {
    /// An empty layer on a raw one.
    Layer,
    /// Such a layer whose refcounts are written lazily.
    Lazy,
    /// Such a layer with extended L2 entries.
    Extended,
    /// An image of compressed clusters, as qemu-img makes it.
    Compressed(&'static str),
    /// An empty layer on a raw one, with an external data file.
    External,
    /// A raw external data file that holds all of the disk.
    RawExternal,
}

/// The image that a run starts with, with its data file, and what lies below.
async fn start(
    from: Start,
    cluster: u64,
    content: Vec<u8>,
    open: OpenOptions,
    seed: u64,
) -> (Rc<SimFile>, Option<Rc<SimFile>>, Rc<Layer>) {
    let options = CreateOptions {
        size: content.len() as u64,
        cluster_size: cluster,
        backing: Some(Backing {
            name: "base.raw".into(),
            format: Some("raw".into()),
        }),
        lazy_refcounts: from == Start::Lazy,
        // Larger clusters than the others have are here for their subclusters.
        extended_l2: from == Start::Extended || cluster == 16 << 10,
        ..CreateOptions::default()
    };
    match from {
        Start::Layer | Start::Lazy | Start::Extended => {
            let file = sim(seed);
            let below = Rc::new(RawBytes(content));
            let layer = new_layer(&file, options, open, below).await;
            (file, None, layer)
        }
        Start::Compressed(kind) => {
            let file = sim_with(qemu_compressed(&content, cluster, kind), seed);
            let layer = open_layer(&file, open, nothing()).await;
            (file, None, layer)
        }
        Start::External | Start::RawExternal => {
            let raw = from == Start::RawExternal;
            let below: Rc<dyn Below> = Rc::new(RawBytes(content.clone()));
            let (data, below) = if raw {
                (sim_with(content, !seed), nothing())
            } else {
                (sim(!seed), below)
            };
            let options = CreateOptions {
                data_file: Some(DataFile {
                    name: "data.raw".into(),
                    raw,
                }),
                backing: options.backing.filter(|_| !raw),
                ..options
            };
            let file = sim(seed);
            create(Storage::Sim(file.clone()), options).await.unwrap();
            let layer = open_external(&file, &data, open, below).await;
            (file, Some(data), layer)
        }
    }
}

async fn run(
    exec: Rc<Executor>,
    from: Start,
    (cluster, clusters): (u64, u64),
    seed: u64,
    discard: bool,
) {
    let mut random = Random(seed);
    let size = cluster * clusters;
    let words: Vec<_> = (0..size / SECTOR).map(|n| 0xba5e + n).collect();
    let options = OpenOptions {
        discard,
        ..SMALL_CACHE
    };
    let content = fill(words.iter().copied());
    let seed = random::next(&mut random.0);
    let (file, data, layer) = start(from, cluster, content, options, seed).await;
    let below = layer.below.clone();
    let mut run = Run {
        layer,
        file,
        data,
        history: Rc::new(RefCell::new(History::new(words))),
        crashes: Rc::default(),
        tag: 0,
    };
    for round in 0..25 {
        let mut taken = Vec::new();
        let mut futures = Vec::new();
        for _ in 0..random.below(6) + 1 {
            futures.extend(run.request(&mut taken, &mut random));
        }
        if random.chance(50) {
            futures.push(run.flush());
        }
        for _ in 0..2 {
            futures.push(run.crash(&mut random));
        }
        together(&exec, futures).await;
        let crashes = run.crashes.take();
        for crash in &crashes {
            let with_qemu = round % 8 == 0 && run.data.is_none();
            survives(crash, below.clone(), with_qemu).await;
        }
        // Now and then life goes on with what a crash has left.
        if random.chance(10) {
            (run.file, run.data) = crashes[0].files();
            let below = below.clone();
            run.layer = open(&run.file, run.data.as_ref(), options, below).await;
            let seen = run.layer.read_all().await;
            let words = (0..(size / SECTOR) as usize).map(|n| word(&seen, n));
            run.history = Rc::new(RefCell::new(History::new(words.collect())));
        }
    }
}

#[test]
fn small_clusters_survive_crashes() {
    for seed in 1000..1020 {
        with_seed(seed, |exec, seed| {
            run(exec, Start::Layer, (512, 400), seed, seed % 2 == 0)
        });
    }
}

#[test]
fn larger_clusters_survive_crashes() {
    for seed in 2000..2020 {
        with_seed(seed, |exec, seed| {
            run(exec, Start::Layer, (4096, 20), seed, seed % 2 == 0)
        });
    }
}

#[test]
fn subclusters_survive_crashes() {
    for seed in 5000..5015 {
        with_seed(seed, |exec, seed| {
            run(exec, Start::Extended, (16 << 10, 12), seed, seed % 2 == 0)
        });
    }
}

#[test]
fn lazy_refcounts_survive_crashes() {
    for seed in 4000..4010 {
        with_seed(seed, |exec, seed| {
            run(exec, Start::Lazy, (4096, 20), seed, seed % 2 == 0)
        });
    }
    for seed in 4010..4015 {
        with_seed(seed, |exec, seed| {
            run(exec, Start::Lazy, (512, 400), seed, seed % 2 == 0)
        });
    }
}

#[test]
fn compressed_clusters_survive_crashes() {
    for seed in 3000..3010 {
        let from = Start::Compressed(["zlib", "zstd"][seed as usize % 2]);
        with_seed(seed, |exec, seed| {
            run(exec, from, (4096, 40), seed, seed % 4 < 2)
        });
    }
}

#[test]
fn external_data_files_survive_crashes() {
    for seed in 5000..5030 {
        let from = [Start::External, Start::RawExternal][seed as usize % 2];
        let size = [(512, 400), (4096, 20), (16 << 10, 12)][seed as usize % 3];
        with_seed(seed, |exec, seed| run(exec, from, size, seed, seed % 4 < 2));
    }
}
