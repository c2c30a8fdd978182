//! `blockdev-add`, `blockdev-del`: disks that are opened and closed while others are used.

use std::{path::Path, rc::Rc};

use serde_json::Value;
use strata_graph::{Backend, GuestDisk, spec::ImageSpec};
use strata_storage::error::Error;

use super::{DetectZeroes, DiskOptions, DiskSpec, Engine, ErrorPolicy, ReplyTo, refused, shutdown};
use crate::api::{BlockdevAdd, BlockdevDel, CmdError, Reply};

impl Engine {
    /// `drive_add`: opens a disk with all its layers, while guests' requests go on.
    pub fn drive_add(self: &Rc<Self>, spec: DiskSpec, reply: ReplyTo) {
        self.spawn("drive_add", reply, async move |engine| {
            engine.add_disk(spec).await
        });
    }

    async fn add_disk(&self, spec: DiskSpec) -> Result<Reply, CmdError> {
        let added = self.open_and_attach(spec).await;
        added.map_err(|error| refused(error.to_string()))?;
        Ok(Reply::Done)
    }

    async fn open_and_attach(&self, spec: DiskSpec) -> Result<(), Error> {
        let (node, id) = self.reserve(&spec)?;
        let root = self.open_chain(node, &spec).await?;
        if self.ending.get() {
            let errors = shutdown::close_layers(&root).await;
            return Err(errors.into_iter().next().unwrap_or(Error::Image {
                file: spec.path,
                why: "the disks are being closed".to_owned(),
            }));
        }
        self.attach(root, spec, id);
        Ok(())
    }

    /// `blockdev-add`: a disk that has no id, and is found by the node name of its top layer.
    pub(super) async fn blockdev_add(&self, cmd: BlockdevAdd) -> Result<Reply, CmdError> {
        let spec = spec_of(&cmd).map_err(refused)?;
        self.add_disk(spec).await
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
        self.remove_disk(&disk, name).await
    }

    /// `drive_del`: closes a disk that has an id.
    pub fn drive_del(self: &Rc<Self>, id: String, reply: ReplyTo) {
        self.spawn("drive_del", reply, async move |engine| {
            engine.delete_disk(&id).await
        });
    }

    async fn delete_disk(&self, id: &str) -> Result<Reply, CmdError> {
        let named = |disk: &&Rc<GuestDisk>| !id.is_empty() && disk.options().id == id;
        let disk = self.disks.borrow().iter().find(named).cloned();
        let disk = disk.ok_or_else(|| refused(format!("Device '{id}' not found")))?;
        self.remove_disk(&disk, id).await
    }

    /// Closes a disk that no device has and that nothing else uses.
    async fn remove_disk(&self, disk: &Rc<GuestDisk>, name: &str) -> Result<Reply, CmdError> {
        let is_its = |backend: &Backend| backend.has(disk);
        let has_device = |backend: &Backend| is_its(backend) && !backend.device().is_empty();
        if self.any_backend(has_device) {
            return Err(refused(format!("Block device {name} is in use")));
        }
        let _hold = self.hold_unused(disk)?;
        self.backends.borrow_mut().retain(|one| !is_its(one));
        self.disks.borrow_mut().retain(|one| !Rc::ptr_eq(one, disk));
        let errors = shutdown::close(disk).await;
        match errors.last() {
            Some(error) => Err(refused(error.to_string())),
            None => Ok(Reply::Done),
        }
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
