//! Chains on simulated files.

use std::{cell::Cell, collections::BTreeMap, future::Future, path::Path, rc::Rc};

use strata_exec::{Executor, Queue, mem::SgList, random, yield_now};
use strata_format::{
    backing::Backing,
    extent::ExtentKind,
    qcow2::{self, CreateOptions, OpenOptions, Qcow2},
    qed::{self, Qed},
};
use strata_storage::{SimFile, Storage};

use crate::{Names, Node};

/// The bytes of files, by name.
pub type Bytes = BTreeMap<String, Vec<u8>>;

/// Simulated files, by name.
#[derive(Clone)]
pub struct Files(Rc<BTreeMap<String, Rc<SimFile>>>);

/// What a layer is made as.
#[derive(Clone, Copy)]
pub enum Kind {
    Qcow2 { cluster: u64, version: u32 },
    Qed,
}

impl Kind {
    pub fn random(random: &mut u64) -> Self {
        match random::next(random) % 5 {
            0 => Self::Qed,
            1 => Self::Qcow2 {
                cluster: 4096,
                version: 2,
            },
            n => Self::Qcow2 {
                cluster: 512 << (3 * n % 8),
                version: 3,
            },
        }
    }
}

pub fn below(random: &mut u64, n: u64) -> u64 {
    random::next(random) % n
}

/// Makes an image of `size` bytes in a file of its own, which is all durable.
pub async fn create(bytes: &mut Bytes, name: &str, kind: Kind, size: u64, backing: Option<&str>) {
    let file = Rc::new(SimFile::new(name, Vec::new(), 0));
    let storage = Storage::Sim(file.clone());
    let backing = backing.map(|name| Backing {
        name: name.into(),
        format: None,
    });
    match kind {
        Kind::Qcow2 { cluster, version } => {
            let options = CreateOptions {
                size,
                cluster_size: cluster,
                version,
                backing,
                ..CreateOptions::default()
            };
            qcow2::create(storage, options).await.unwrap();
        }
        Kind::Qed => {
            let options = qed::CreateOptions {
                size,
                cluster_size: 4096,
                table_clusters: 1,
                backing,
            };
            qed::create(storage, options).await.unwrap();
        }
    }
    bytes.insert(name.to_owned(), file.bytes());
}

/// Writes random data and zeros to a layer.
pub async fn scribble(node: &Rc<Node>, random: &mut u64) {
    let sectors = node.size() / 512;
    for _ in 0..8 {
        let start = below(random, sectors);
        let len = 1 + below(random, (sectors - start).min(64));
        let (offset, len) = (start * 512, len * 512);
        match below(random, 4) {
            0 => node.write_zeroes(offset, len, true).await.unwrap(),
            _ => {
                let byte = below(random, 4) as u8;
                let data = SgList::from_vec(vec![byte; len as usize]);
                node.write(offset, data).await.unwrap();
            }
        }
    }
}

pub async fn read_all(node: &Rc<Node>) -> Vec<u8> {
    let data = SgList::zeroed(node.size() as usize);
    node.read(0, data.clone()).await.unwrap();
    data.to_vec()
}

/// Whether the layer itself holds nothing.
pub async fn is_empty(node: &Rc<Node>) -> bool {
    let mut offset = 0;
    while offset < node.size() {
        let extent = node.extent(offset, node.size() - offset).await.unwrap();
        if extent.kind != ExtentKind::Unallocated {
            return false;
        }
        offset += extent.len;
    }
    true
}

impl Files {
    pub fn new(bytes: &Bytes, seed: u64) -> Self {
        let file = |(name, bytes): (&String, &Vec<u8>)| {
            let file = SimFile::new(name.as_str(), bytes.clone(), seed + bytes.len() as u64);
            (name.clone(), Rc::new(file))
        };
        Self(Rc::new(bytes.iter().map(file).collect()))
    }

    pub fn file(&self, name: &str) -> &SimFile {
        &self.0[name]
    }

    /// What a power cut now leaves.
    pub fn crash(&self, seed: u64) -> Bytes {
        let files = self.0.iter().enumerate();
        files
            .map(|(n, (name, file))| (name.clone(), file.crash(seed + n as u64)))
            .collect()
    }

    pub fn bytes(&self) -> Bytes {
        let files = self.0.iter();
        files
            .map(|(name, file)| (name.clone(), file.bytes()))
            .collect()
    }

    /// Opens an image and what its headers name below it; those in `writable` for writing.
    pub async fn open(&self, top: &str, writable: &[&str]) -> Rc<Node> {
        let node = self.open_layer(top, writable).await;
        let mut upper = node.clone();
        while let Some(backing) = upper.image().backing_name() {
            let below = self
                .open_layer(backing.name.to_str().unwrap(), writable)
                .await;
            upper.set_backing_node(Some(below.clone()));
            upper = below;
        }
        node
    }

    pub async fn open_layer(&self, name: &str, writable: &[&str]) -> Rc<Node> {
        let storage = Storage::Sim(self.0[name].clone());
        let (path, writable) = (Path::new(name), writable.contains(&name));
        let magic = storage.read_vec(0, 4).await.unwrap();
        let name = Names::default().made_up();
        Rc::new(if magic == *b"QED\0" {
            let image = Qed::open(storage, !writable, 1 << 16).await.unwrap();
            Node::qed(name, path, writable, image)
        } else {
            let options = OpenOptions {
                read_only: !writable,
                cache_bytes: 1 << 16,
                ..OpenOptions::default()
            };
            let image = Qcow2::open(storage, options).await.unwrap();
            Node::qcow2(name, path, writable, image)
        })
    }

    /// No image has anything wrong but leaks.
    pub async fn check(&self) {
        for name in self.0.keys() {
            let node = self.open_layer(name, &[]).await;
            if let Some(image) = node.image().as_qcow2() {
                let report = image.check().await.unwrap();
                let wrong = report.corruptions + report.check_errors;
                assert_eq!(wrong, 0, "{name}: {:?}", report.lines);
            }
        }
    }
}

/// Lets `work` end, with a look at about `looks` of the moments at which the power might have been
/// cut: `top` shows the same bytes as before, and `work` started again ends as `ended` says.
pub async fn power_cuts_change_no_byte(
    exec: &Rc<Executor>,
    (bytes, seed): (&Bytes, u64),
    looks: usize,
    work: impl AsyncFn(&Files) + Copy + 'static,
    ended: impl AsyncFn(&Files, &[u8]),
) {
    let files = Files::new(bytes, seed);
    let expected = read_all(&files.open("top", &[]).await).await;
    let working = files.clone();
    let crashes = crashes_during(exec, &files, async move { work(&working).await }).await;
    let every = 1 + crashes.len() / looks;
    for crash in crashes.iter().step_by(every) {
        let files = Files::new(crash, seed);
        files.check().await;
        assert_shows(&files.open("top", &[]).await, &expected).await;
        work(&files).await;
        ended(&files, &expected).await;
    }
    ended(&files, &expected).await;
}

pub async fn assert_shows(node: &Rc<Node>, expected: &[u8]) {
    assert!(
        read_all(node).await == expected,
        "the disk shows other bytes"
    );
}

/// What power cuts leave while `work` runs, at every moment.
async fn crashes_during(
    exec: &Rc<Executor>,
    files: &Files,
    work: impl Future<Output = ()> + 'static,
) -> Vec<Bytes> {
    let done = Rc::new(Cell::new(false));
    let mark = done.clone();
    exec.spawn(Queue::Guest, async move {
        work.await;
        mark.set(true);
    });
    let mut crashes = Vec::new();
    while !done.get() {
        crashes.push(files.crash(crashes.len() as u64 * 7));
        yield_now().await;
    }
    crashes.push(files.crash(0));
    crashes.dedup();
    crashes
}

/// Runs a test with some seeds; the one that fails is shown.
pub fn seeds<F: Future<Output = ()> + 'static>(
    count: u64,
    test: impl Fn(Rc<Executor>, u64) -> F + std::panic::RefUnwindSafe,
) {
    for seed in 0..count {
        let result = std::panic::catch_unwind(|| {
            let exec = Executor::seeded(seed).unwrap();
            exec.block_on(test(exec.clone(), seed));
        });
        if let Err(panic) = result {
            eprintln!("failed with seed {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
