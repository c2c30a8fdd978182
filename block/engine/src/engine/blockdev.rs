//! `blockdev-add`, `blockdev-del`: disks that are opened and closed while others are used.

use std::{path::Path, rc::Rc};

use serde_json::Value;
use strata_exec::Queue;
use strata_graph::{Backend, GuestDisk, Hold, Purpose, spec::ImageSpec};
use strata_storage::error::Error;

use super::{
    DetectZeroes, DiskOptions, DiskSpec, Engine, ErrorPolicy, refuse_empty, refuse_partial, refused,
};
use crate::api::{BlockdevAdd, BlockdevDel, CmdError, Reply};

impl Engine {
    /// `drive_add`: opens a disk with all its layers, while guests' requests go on. Then calls
    /// `done`.
    pub fn begin_to_add_disk(
        self: &Rc<Self>,
        spec: DiskSpec,
        done: impl FnOnce(Result<(), CmdError>) + 'static,
    ) {
        let engine = self.clone();
        self.exec
            .spawn_named(Queue::Guest, "drive_add", async move {
                let added = engine.add_disk(spec).await;
                done(added.map_err(|error| refused(error.to_string())));
            });
    }

    async fn add_disk(&self, spec: DiskSpec) -> Result<(), Error> {
        let (node, id) = self.reserve(&spec)?;
        let root = self.open_chain(node, &spec).await?;
        refuse_empty(&root)?;
        refuse_partial(&root, spec.disk.block_size())?;
        if self.ending.get() {
            for layer in root.chain() {
                layer.image().close().await?;
            }
            return Err(Error::Image {
                file: spec.path,
                why: "the disks are being closed".to_owned(),
            });
        }
        self.attach(root, spec, id);
        Ok(())
    }

    /// `blockdev-add`: a disk that has no id, and is found by the node name of its top layer.
    pub(super) async fn blockdev_add(&self, cmd: BlockdevAdd) -> Result<Reply, CmdError> {
        let spec = spec_of(&cmd).map_err(refused)?;
        self.add_disk(spec)
            .await
            .map_err(|error| refused(error.to_string()))?;
        Ok(Reply::Done)
    }

    /// `blockdev-del`: closes such a disk.
    pub(super) async fn blockdev_del(&self, cmd: BlockdevDel) -> Result<Reply, CmdError> {
        let name = &cmd.node_name;
        let (disk, layer) = self
            .find_layer(name)
            .ok_or_else(|| refused(format!("Failed to find node with node-name='{name}'")))?;
        if !Rc::ptr_eq(&layer, &disk.root()) || !disk.options().id.is_empty() {
            return Err(refused(format!("Node {name} is not owned by the monitor")));
        }
        self.remove_disk(&disk, name).await?;
        Ok(Reply::Done)
    }

    /// `drive_del`: closes a disk that has an id. Then calls `done`.
    pub fn begin_to_delete_disk(
        self: &Rc<Self>,
        id: String,
        done: impl FnOnce(Result<(), CmdError>) + 'static,
    ) {
        let engine = self.clone();
        self.exec
            .spawn_named(Queue::Guest, "drive_del", async move {
                done(engine.delete_disk(&id).await);
            });
    }

    async fn delete_disk(&self, id: &str) -> Result<(), CmdError> {
        let named = |disk: &&Rc<GuestDisk>| !id.is_empty() && disk.options().id == id;
        let disk = self.disks.borrow().iter().find(named).cloned();
        let disk = disk.ok_or_else(|| refused(format!("Device '{id}' not found")))?;
        self.remove_disk(&disk, id).await
    }

    /// Closes a disk that no device has and that nothing else holds.
    async fn remove_disk(&self, disk: &Rc<GuestDisk>, name: &str) -> Result<(), CmdError> {
        let is_its = |backend: &Backend| Rc::ptr_eq(backend.disk(), disk);
        let has_device = |backend: &Backend| is_its(backend) && !backend.device().is_empty();
        if self.any_backend(has_device) {
            return Err(refused(format!("Block device {name} is in use")));
        }
        let layers: Vec<_> = disk.root().chain().collect();
        let _hold = Hold::take(disk, layers.clone(), Purpose::Close)?;
        self.backends.borrow_mut().retain(|one| !is_its(one));
        self.disks.borrow_mut().retain(|one| !Rc::ptr_eq(one, disk));
        disk.give_up_name();
        let _drained = disk.gate().drain().await;
        let mut result = Ok(());
        for layer in layers {
            if let Err(error) = layer.image().close().await {
                result = Err(refused(error.to_string()));
            }
        }
        result
    }
}

/// What the options of block drivers say.
fn spec_of(cmd: &BlockdevAdd) -> Result<DiskSpec, String> {
    let options = &cmd.0;
    let text = |name: &str| options.get(name).and_then(Value::as_str);
    let Some(node_name) = text("node-name") else {
        return Err("'node-name' must be specified for the root node".to_owned());
    };
    if text("driver").is_none() {
        return Err("Parameter 'driver' is missing".to_owned());
    }
    let json = format!("json:{}", Value::Object(options.clone()));
    let image = ImageSpec::from_name(Path::new(&json))?;
    let mut spec = DiskSpec {
        path: image.path.clone(),
        ..DiskSpec::default()
    };
    spec.image = image.with(spec.image)?;
    spec.image.node_name = Some(node_name.to_owned());
    spec.image.discard = word(
        text("discard"),
        &[("ignore", false), ("unmap", true)],
        "discard",
    )?;
    let detect = [
        ("off", DetectZeroes::Off),
        ("on", DetectZeroes::On),
        ("unmap", DetectZeroes::Unmap),
    ];
    spec.disk = DiskOptions {
        discard: spec.image.discard,
        detect_zeroes: word(text("detect-zeroes"), &detect, "detect-zeroes")?,
        errors: ErrorPolicy::QEMU,
        ..DiskOptions::default()
    };
    Ok(spec)
}

/// One of several words; the first if none was given.
fn word<T: Copy>(given: Option<&str>, all: &[(&str, T)], name: &str) -> Result<T, String> {
    let given = given.unwrap_or(all[0].0);
    let found = all.iter().find(|(word, _)| *word == given);
    found
        .map(|(_, value)| *value)
        .ok_or_else(|| format!("Parameter '{name}' does not accept value '{given}'"))
}
