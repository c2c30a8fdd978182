//! A chain on simulated files, by the names that its headers use.

use std::rc::Rc;

use crate::{
    engine::NewImage,
    exec::Executor,
    graph::Node,
    qcow2::{self, Backing, CreateOptions, OpenOptions, Qcow2},
    qed::{self, Qed},
    random,
    storage::{SimFile, Storage},
};

/// The bytes of every layer, base first. Layer `i` is named `i` in the header above it.
#[derive(Clone)]
pub struct Images(pub Vec<Vec<u8>>);

/// An opened chain.
pub struct Chain {
    pub files: Vec<Rc<SimFile>>,
    pub top: Rc<Node>,
}

/// Every file's name is its number.
fn name(layer: usize) -> String {
    layer.to_string()
}

impl Images {
    /// `layers` empty images, one above the other.
    pub fn create(layers: usize, size: u64, random: &mut u64) -> Self {
        let images = (0..layers).map(|layer| {
            let backing = layer.checked_sub(1).map(|below| Backing {
                name: name(below),
                format: Some("qcow2".to_owned()),
            });
            let shift = random::next(random) % 8;
            let image = if random::next(random).is_multiple_of(4) {
                NewImage::Qed(qed::CreateOptions {
                    size,
                    cluster_size: 4096 << (shift % 4),
                    table_clusters: 1,
                    backing,
                })
            } else {
                // The smallest clusters that have subclusters, of 512 bytes.
                let extended_l2 = random::next(random).is_multiple_of(4);
                let shift = if extended_l2 { 5 } else { shift };
                NewImage::Qcow2(CreateOptions {
                    size,
                    cluster_size: 512 << shift,
                    extended_l2,
                    backing,
                    ..Default::default()
                })
            };
            create(layer, image)
        });
        Self(images.collect())
    }

    /// Checks every image as a crash left it: leaks are allowed, corruptions are not.
    pub fn check(&self) {
        for (layer, bytes) in self.0.iter().enumerate() {
            let exec = Executor::new().unwrap();
            let file = Rc::new(SimFile::new(name(layer), bytes.clone(), 0));
            if bytes.starts_with(b"QED\0") {
                exec.block_on(check_qed(file));
                continue;
            }
            let report = exec.block_on(async move {
                let options = OpenOptions {
                    read_only: true,
                    ..OpenOptions::default()
                };
                Qcow2::open(Storage::Sim(file), options)
                    .await
                    .unwrap()
                    .check()
                    .await
                    .unwrap()
            });
            let found = (report.corruptions, report.check_errors);
            assert_eq!(found, (0, 0), "layer {layer}: {:?}", report.lines);
        }
    }

    /// Opens the chain as its headers describe it.
    pub fn open(&self, exec: &Rc<Executor>, seed: u64) -> Chain {
        let images = self.0.iter().enumerate();
        let files: Vec<_> = images
            .map(|(layer, bytes)| {
                Rc::new(SimFile::new(
                    name(layer),
                    bytes.clone(),
                    seed + layer as u64,
                ))
            })
            .collect();
        let open = files.clone();
        let top = exec.block_on(async move { open_chain(&open).await });
        Chain { files, top }
    }
}

/// Every entry names a place in the file, and what nothing names can be given back.
async fn check_qed(file: Rc<SimFile>) {
    let file = Storage::Sim(file);
    let image = Qed::open(file.clone(), true, 1 << 16).await.unwrap();
    let (size, mut offset) = (image.virtual_size(), 0);
    while offset < size {
        offset += image.extent(offset, size - offset).await.unwrap().len;
    }
    Qed::open(file, false, 1 << 16).await.unwrap();
}

fn create(layer: usize, image: NewImage) -> Vec<u8> {
    let exec = Executor::new().unwrap();
    let file = Rc::new(SimFile::new(name(layer), Vec::new(), 0));
    let storage = Storage::Sim(file.clone());
    exec.block_on(async move {
        match image {
            NewImage::Qcow2(options) => qcow2::create(storage.clone(), options).await.unwrap(),
            NewImage::Qed(options) => qed::create(storage.clone(), options).await.unwrap(),
            NewImage::Raw(size) => storage.set_len(size).await.unwrap(),
        }
        storage.flush().await.unwrap();
    });
    file.durable_bytes()
}

async fn open_chain(files: &[Rc<SimFile>]) -> Rc<Node> {
    let top = open_layer(&files[files.len() - 1], false).await;
    let mut upper = top.clone();
    while let Some(backing) = upper.backing_name() {
        let layer: usize = backing.name.parse().expect("a layer's name");
        let below = open_layer(&files[layer], true).await;
        upper.set_backing_node(Some(below.clone()));
        upper = below;
    }
    top
}

async fn open_layer(file: &Rc<SimFile>, read_only: bool) -> Rc<Node> {
    let storage = Storage::Sim(file.clone());
    let path = storage.path().to_owned();
    let name = path.display().to_string();
    if storage.read_vec(0, 4).await.unwrap() == *b"QED\0" {
        let image = Qed::open(storage, read_only, 1 << 16).await.unwrap();
        return Rc::new(Node::qed(name, &path, !read_only, image));
    }
    let options = OpenOptions {
        read_only,
        cache_bytes: 1 << 16,
        discard: true,
    };
    let image = Qcow2::open(storage, options).await.unwrap();
    Rc::new(Node::qcow2(name, &path, !read_only, image))
}
