//! Arguments of the commands that change a disk (`qapi/block-core.json`).

use serde::{Deserialize, Deserializer, Serialize, de::Error};
use serde_json::{Map, Value};

use super::{CmdError, DiskName, OnError, number};

/// `BlockdevSnapshotSync`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BlockdevSnapshotSync {
    /// The disk's id; this or `node_name` must be given.
    pub device: Option<String>,
    /// The node name of its top layer.
    pub node_name: Option<String>,
    /// The overlay's path on the host.
    pub snapshot_file: String,
    /// Node name for the overlay; required with `node_name`.
    pub snapshot_node_name: Option<String>,
    /// Format of the overlay: `qcow2` if `None`, or `qed`.
    pub format: Option<String>,
    /// Whether the overlay is made; it is if `None`.
    pub mode: Option<NewImageMode>,
}

impl BlockdevSnapshotSync {
    /// What the disk is called.
    pub fn disk(&self) -> DiskName {
        DiskName::new(&self.device, &self.node_name)
    }

    pub(super) fn check(&self) -> Result<(), CmdError> {
        self.disk().check()?;
        if self.node_name.is_some() && self.snapshot_node_name.is_none() {
            return Err(CmdError::generic("New overlay node-name missing"));
        }
        Ok(())
    }
}

/// `BlockdevSnapshot`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BlockdevSnapshot {
    /// The disk's id, or the node name of its top layer.
    pub node: String,
    /// The node name of the overlay, which `blockdev-add` has opened with `"backing": null`.
    pub overlay: String,
}

/// `BlockdevSnapshotInternal`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BlockdevSnapshotInternal {
    /// The disk's id, or the node name of its top layer.
    pub device: String,
    /// The snapshot's name.
    pub name: String,
}

/// `blockdev-snapshot-delete-internal-sync`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BlockdevSnapshotDeleteInternal {
    /// The disk's id, or the node name of its top layer.
    pub device: String,
    /// The snapshot's id; any if `None`.
    pub id: Option<String>,
    /// Its name; any if `None`, but one of the two must be given.
    pub name: Option<String>,
}

impl BlockdevSnapshotDeleteInternal {
    pub(super) fn check(&self) -> Result<(), CmdError> {
        if self.id.is_none() && self.name.is_none() {
            return Err(CmdError::generic("Name or id must be provided"));
        }
        Ok(())
    }
}

/// `change-backing-file`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ChangeBackingFile {
    /// The disk's id, or the node name of its top layer.
    pub device: String,
    /// The node name of the layer whose header changes.
    pub image_node_name: String,
    /// What it is to say. (In QEMU anything; here it must lead to the layer below.)
    pub backing_file: String,
}

/// `blockdev-add`: the options of block drivers, as QEMU's schema has them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct BlockdevAdd(pub Map<String, Value>);

impl<'de> Deserialize<'de> for BlockdevAdd {
    /// Which options there are depends on the driver; that one is named is all that is looked at.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let options = Map::deserialize(deserializer)?;
        if options.contains_key("driver") {
            Ok(Self(options))
        } else {
            Err(D::Error::missing_field("driver"))
        }
    }
}

/// `blockdev-del`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BlockdevDel {
    /// What `blockdev-add` has called it.
    pub node_name: String,
}

/// `NewImageMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NewImageMode {
    /// The file exists already and is used as it is (HMP `-n`).
    Existing,
    /// It is made, and names the layer below by its absolute path.
    AbsolutePaths,
}

/// `block_resize`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BlockResize {
    /// The disk's id; this or `node_name` must be given.
    pub device: Option<String>,
    /// The node name of its top layer.
    pub node_name: Option<String>,
    /// Bytes.
    #[serde(deserialize_with = "number::size")]
    pub size: u64,
}

impl BlockResize {
    /// What the disk is called.
    pub fn disk(&self) -> DiskName {
        DiskName::new(&self.device, &self.node_name)
    }

    pub(super) fn check(&self) -> Result<(), CmdError> {
        self.disk().check()
    }
}

/// `block-stream`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BlockStream {
    /// The job's id; the disk's if `None`, which will not do for a layer below its top.
    pub job_id: Option<String>,
    /// The disk, or the node name of the layer that is merged into.
    pub device: String,
    /// The layer that stays as the backing file, by file name; none stays if neither this nor
    /// `base_node` is given.
    pub base: Option<String>,
    /// The same by node name.
    pub base_node: Option<String>,
    /// The string to write into the header instead of the base's own name.
    pub backing_file: Option<String>,
    /// Nothing is to be masked, as with [`BlockCommit::backing_mask_protocol`].
    pub backing_mask_protocol: Option<bool>,
    /// The last layer that is merged, by node name: what lies below it stays.
    pub bottom: Option<String>,
    /// Bytes a second; no limit if 0 or `None`.
    #[serde(default, deserialize_with = "number::speed_if_given")]
    pub speed: Option<u64>,
    /// What an I/O error does to the job; [`OnError::Report`] if `None`.
    pub on_error: Option<OnError>,
    /// A node name that is the job's, as with [`BlockCommit::filter_node_name`].
    pub filter_node_name: Option<String>,
    /// Finish without waiting for `job-finalize`; so it is if `None`.
    pub auto_finalize: Option<bool>,
    /// Forget the job when it has concluded; so it is if `None`.
    pub auto_dismiss: Option<bool>,
    /// The jobs that it ends with: all of them well, or none.
    pub group: Option<String>,
    /// How many these are; a new group has to be told, unless a transaction starts all of them.
    pub group_size: Option<u32>,
}

impl BlockStream {
    pub(super) fn check(&self) -> Result<(), CmdError> {
        let given = [
            ("base", &self.base),
            ("base-node", &self.base_node),
            ("bottom", &self.bottom),
        ];
        // In the order in which QEMU looks.
        for (one, other) in [(0, 1), (0, 2), (2, 1)] {
            let ((one, first), (other, second)) = (given[one], given[other]);
            if first.is_some() && second.is_some() {
                return Err(CmdError::generic(format!(
                    "'{one}' and '{other}' cannot be specified at the same time"
                )));
            }
        }
        let has_base = given.iter().any(|(_, name)| name.is_some());
        if !has_base && self.backing_file.is_some() {
            return Err(CmdError::generic(
                "backing file specified, but streaming the entire chain",
            ));
        }
        Ok(())
    }
}

/// `block-commit`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BlockCommit {
    /// The job's id; the disk's if `None`.
    pub job_id: Option<String>,
    /// The disk.
    pub device: String,
    /// The layer that gets what those above it hold, by node name; the lowest if neither this nor
    /// `base` is given.
    pub base_node: Option<String>,
    /// The same by file name.
    pub base: Option<String>,
    /// The uppermost layer that goes down, by node name; the disk's top if neither this nor `top`
    /// is given.
    pub top_node: Option<String>,
    /// The same by file name.
    pub top: Option<String>,
    /// The string to write into the header of the layer above instead of the base's own name.
    pub backing_file: Option<String>,
    /// Nothing is to be masked: the format that a header says of the base is never that of a
    /// protocol.
    pub backing_mask_protocol: Option<bool>,
    /// Bytes a second; no limit if 0 or `None`.
    #[serde(default, deserialize_with = "number::speed_if_given")]
    pub speed: Option<u64>,
    /// What an I/O error does to the job; [`OnError::Report`] if `None`.
    pub on_error: Option<OnError>,
    /// A node name that is the job's as long as it lasts. (In QEMU a node that the job puts into
    /// the graph has it; here there is no such node.)
    pub filter_node_name: Option<String>,
    /// Finish without waiting for `job-finalize`; so it is if `None`.
    pub auto_finalize: Option<bool>,
    /// Forget the job when it has concluded; so it is if `None`.
    pub auto_dismiss: Option<bool>,
    /// The jobs that it ends with: all of them well, or none.
    pub group: Option<String>,
    /// How many these are; a new group has to be told, unless a transaction starts all of them.
    pub group_size: Option<u32>,
}

impl BlockCommit {
    pub(super) fn check(&self) -> Result<(), CmdError> {
        let twice = |names| {
            let desc = format!("{names} are mutually exclusive");
            Err(CmdError::generic(desc))
        };
        if self.top_node.is_some() && self.top.is_some() {
            return twice("'top-node' and 'top'");
        }
        if self.base_node.is_some() && self.base.is_some() {
            return twice("'base-node' and 'base'");
        }
        Ok(())
    }
}

/// `query-named-block-nodes`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct QueryNamedBlockNodes {
    /// Each layer without those below it; with them if `None`.
    pub flat: Option<bool>,
}
