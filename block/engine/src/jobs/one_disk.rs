//! An engine with one disk, for tests of jobs' verbs and events.

use std::rc::Rc;

use strata_graph::{DiskOptions, Format, chain::ImageOptions};

use crate::engine::{DiskSpec, Engine};

/// The engine with `virtio0`, which has one sector, and the directory that keeps its file.
pub(super) fn engine() -> (Rc<Engine>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.raw");
    std::fs::write(&path, [0; 512]).unwrap();
    let engine = Engine::new(|_| {}).unwrap();
    let image = ImageOptions {
        format: Some(Format::Raw),
        ..ImageOptions::default()
    };
    let disk = DiskOptions {
        id: "virtio0".to_owned(),
        ..DiskOptions::default()
    };
    engine.open_disk(DiskSpec { path, image, disk }).unwrap();
    (engine, directory)
}
