//! What the names in commands mean.

use std::rc::Rc;

use strata_graph::{Backend, GuestDisk, Node};

use super::{Engine, refused};
use crate::api::{CmdError, DiskName};

impl Engine {
    /// The disk that a command means: by its id, or by the node name of its top layer.
    pub fn find_disk(&self, name: &str) -> Option<Rc<GuestDisk>> {
        let (disk, layer) = self.find_layer(name)?;
        Rc::ptr_eq(&layer, &disk.root()).then_some(disk)
    }

    /// The layer that a command means, and its disk: the top of a disk by the disk's id, or any
    /// layer by its node name. Disks and layers have their names from one space, so it is one at
    /// most.
    pub(super) fn find_layer(&self, name: &str) -> Option<(Rc<GuestDisk>, Rc<Node>)> {
        let disks = self.disks.borrow();
        let named = |disk: &&Rc<GuestDisk>| !name.is_empty() && disk.options().id == name;
        if let Some(disk) = disks.iter().find(named) {
            return Some((disk.clone(), disk.root()));
        }
        disks.iter().find_map(|disk| {
            let layer = disk.root().chain().find(|node| node.name() == name)?;
            Some((disk.clone(), layer))
        })
    }

    /// Why a command finds nothing that is called `name`, as a disk or as a layer.
    pub(super) fn not_found(&self, name: &str) -> CmdError {
        self.no_medium(name).unwrap_or_else(|| {
            refused(format!(
                "Cannot find device='{name}' nor node-name='{name}'"
            ))
        })
    }

    /// Says so if `name` is that of a drive without a medium, in QEMU's words.
    fn no_medium(&self, name: &str) -> Option<CmdError> {
        let is_it = |drive: &Backend| drive.options().id == name && drive.disk().is_none();
        let found = !name.is_empty() && self.any_backend(is_it);
        found.then(|| refused(format!("Device '{name}' has no medium")))
    }

    /// The disk whose top layer a command means, which is to be changed. Layers below cannot be.
    ///
    /// # Errors
    /// Nothing has the name; the layer lies below another one. In QEMU's words.
    pub(super) fn find_top(&self, name: &DiskName) -> Result<Rc<GuestDisk>, CmdError> {
        let found = name.names().find_map(|name| self.find_layer(name));
        let (disk, layer) = found.ok_or_else(|| {
            let empty = name.names().find_map(|name| self.no_medium(name));
            empty.unwrap_or_else(|| refused(format!("Cannot find {name}")))
        })?;
        check_on_top(&disk, &layer)?;
        Ok(disk)
    }
}

/// Refuses a layer that lies below another one.
pub(super) fn check_on_top(disk: &GuestDisk, layer: &Rc<Node>) -> Result<(), CmdError> {
    let root = disk.root();
    let above = root.chain().find(|node| {
        node.backing()
            .is_some_and(|below| Rc::ptr_eq(&below, layer))
    });
    match above {
        None => Ok(()),
        Some(above) => Err(refused(format!(
            "Node '{}' is busy: node is used as backing hd of '{}'",
            layer.name(),
            above.name()
        ))),
    }
}

/// Refuses a layer that is not the disk's top, in the words of commands that need one.
pub(super) fn check_is_root(disk: &GuestDisk, layer: &Rc<Node>) -> Result<(), CmdError> {
    if !Rc::ptr_eq(layer, &disk.root()) {
        return Err(refused("Need a root block node"));
    }
    Ok(())
}

/// Refuses a disk that its guest may not write to.
pub(super) fn check_writable(disk: &GuestDisk) -> Result<(), CmdError> {
    let options = disk.options();
    if options.read_only {
        return Err(refused(format!("Disk '{}' is read-only", options.id)));
    }
    Ok(())
}
