//! For tests: disks on chains of raw layers, which lie on each other in memory only.

use std::{path::PathBuf, rc::Rc};

use strata_exec::Executor;

use super::{
    DiskOptions, Format, GuestDisk, Node,
    chain::{ImageOptions, Opener},
};

/// Bytes of the disks.
pub const SIZE: u64 = 4096;

pub struct Bench {
    pub exec: Rc<Executor>,
    opener: Rc<Opener>,
    directory: tempfile::TempDir,
}

impl Default for Bench {
    fn default() -> Self {
        let exec = Executor::new().unwrap();
        Self {
            opener: Rc::new(Opener::new(exec.clone())),
            exec,
            directory: tempfile::tempdir().unwrap(),
        }
    }
}

impl Bench {
    /// A layer in a file of `size` bytes, which it is named after.
    pub fn layer(&self, name: &str, size: u64, writable: bool) -> Rc<Node> {
        let path = self.directory.path().join(name);
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(size).unwrap();
        self.open(path, name, writable)
    }

    /// The file of the layer `file` once more.
    pub fn again(&self, file: &str, name: &str) -> Rc<Node> {
        self.open(self.directory.path().join(file), name, false)
    }

    fn open(&self, path: PathBuf, name: &str, writable: bool) -> Rc<Node> {
        let options = ImageOptions {
            format: Some(Format::Raw),
            read_only: !writable,
            force_share: !writable,
            node_name: Some(name.to_owned()),
            ..ImageOptions::default()
        };
        let opener = self.opener.clone();
        let opened = async move { opener.open_layer(&path, &options).await };
        self.exec.block_on(opened).unwrap()
    }

    /// A disk on layers with these names, from the top down. Only the top is writable.
    pub fn disk(&self, id: &str, names: &[&str]) -> Rc<GuestDisk> {
        let mut below = None;
        for (depth, name) in names.iter().enumerate().rev() {
            let layer = self.layer(name, SIZE, depth == 0);
            layer.set_backing_node(below);
            below = Some(layer);
        }
        let options = DiskOptions {
            id: id.to_owned(),
            ..DiskOptions::default()
        };
        let (exec, image) = (self.exec.clone(), ImageOptions::default());
        let failures = Box::new(|_| {});
        GuestDisk::new(exec, failures, below.unwrap(), (options, image), None)
    }
}

/// The names of a disk's layers, from the top down.
pub fn names(disk: &GuestDisk) -> Vec<String> {
    let root = disk.root();
    root.chain().map(|node| node.name().to_owned()).collect()
}

/// The layer of a disk that has this name.
pub fn layer(disk: &GuestDisk, name: &str) -> Rc<Node> {
    let root = disk.root();
    root.chain().find(|node| node.name() == name).unwrap()
}
