//! Internal snapshots: a disk is kept as it is, within its image, while its guest runs.

use std::{rc::Rc, time::SystemTime};

use strata_format::qcow2::{Qcow2, Snapshot};
use strata_graph::{GuestDisk, Hold, Node, Purpose};

use super::{Engine, find::check_is_root, refused, snapshot::failed, transaction::Plan};
use crate::api::{
    BlockdevSnapshotDeleteInternal, BlockdevSnapshotInternal, CmdError, Reply, SnapshotInfo,
};

/// A snapshot that is to be made.
pub(super) struct Internal {
    pub disk: Rc<GuestDisk>,
    /// The disk's top, which is a qcow2 image.
    pub node: Rc<Node>,
    /// Keeps others from it.
    _hold: Hold,
    device: String,
    name: String,
}

impl Engine {
    /// `blockdev-snapshot-internal-sync`.
    pub(super) async fn snapshot_internal(
        &self,
        cmd: BlockdevSnapshotInternal,
    ) -> Result<Reply, CmdError> {
        let mut plan = Plan::default();
        plan.internal.push(self.find_internal(cmd)?);
        self.carry_out(plan).await?;
        Ok(Reply::Done)
    }

    /// Finds the disk, and keeps others from it.
    pub(super) fn find_internal(
        &self,
        cmd: BlockdevSnapshotInternal,
    ) -> Result<Internal, CmdError> {
        let BlockdevSnapshotInternal { device, name } = cmd;
        let (disk, hold) = self.hold_for_internal(&device)?;
        let node = disk.root();
        if node.image().as_qcow2().is_none() {
            return Err(refused(format!(
                "Block format '{}' used by device '{device}' does not support internal snapshots",
                node.format()
            )));
        }
        if name.is_empty() {
            return Err(refused("Name is empty"));
        }
        Ok(Internal {
            disk,
            node,
            _hold: hold,
            device,
            name,
        })
    }

    fn hold_for_internal(&self, device: &str) -> Result<(Rc<GuestDisk>, Hold), CmdError> {
        let found = self.find_layer(device);
        let (disk, layer) = found.ok_or_else(|| self.not_found(device))?;
        check_is_root(&disk, &layer)?;
        let hold = Hold::take(&disk, [layer], Purpose::Snapshot)?;
        if disk.options().read_only {
            return Err(refused(format!("Device '{device}' is read only")));
        }
        Ok((disk, hold))
    }

    /// `blockdev-snapshot-delete-internal-sync`.
    pub(super) async fn delete_internal(
        &self,
        cmd: BlockdevSnapshotDeleteInternal,
    ) -> Result<Reply, CmdError> {
        let BlockdevSnapshotDeleteInternal { device, id, name } = cmd;
        let (disk, _hold) = self.hold_for_internal(&device)?;
        let node = disk.root();
        let is_it = |one: &&Snapshot| {
            id.as_ref().is_none_or(|id| *id == one.id)
                && name.as_ref().is_none_or(|name| *name == one.name)
        };
        let image = node.image().as_qcow2();
        let snapshots = match image {
            None => Vec::new(),
            Some(image) => image.snapshots().await.map_err(failed)?,
        };
        let (Some(found), Some(image)) = (snapshots.iter().find(is_it), image) else {
            let said = |given: &Option<String>| given.clone().unwrap_or_else(|| "null".to_owned());
            return Err(refused(format!(
                "Snapshot with id '{}' and name '{}' does not exist on device '{device}'",
                said(&id),
                said(&name)
            )));
        };
        node.flush().await.map_err(|error| failed(error.into()))?;
        let _alone = self.at_rest.lock().await;
        let _drained = disk.gate().drain().await;
        image.delete_snapshot(&found.id).await.map_err(|error| {
            refused(format!(
                "Failed to delete snapshot '{}' on device '{device}': {error}",
                found.name
            ))
        })?;
        Ok(Reply::Snapshot(SnapshotInfo::from(found)))
    }
}

impl Internal {
    fn image(&self) -> &Qcow2 {
        self.node
            .image()
            .as_qcow2()
            .expect("checked when it was found")
    }

    /// What can be done while the guest goes on.
    pub async fn prepare(&self) -> Result<(), CmdError> {
        let snapshots = self.image().snapshots().await.map_err(failed)?;
        if snapshots.iter().any(|one| one.name == self.name) {
            return Err(refused(format!(
                "Snapshot with name '{}' already exists on device '{}'",
                self.name, self.device
            )));
        }
        let flushed = self.node.flush().await;
        flushed.map_err(|error| failed(error.into()))
    }

    /// Makes it; returns its id. The disk is at rest.
    pub async fn make(&self) -> Result<String, CmdError> {
        let failed = |error| {
            refused(format!(
                "Failed to create snapshot '{}' on device '{}': {error}",
                self.name, self.device
            ))
        };
        let image = self.image();
        let created = image.create_snapshot(&self.name, SystemTime::now()).await;
        created.map_err(failed)
    }
}
