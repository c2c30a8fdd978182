//! Commands about exports, and what they answer (`qapi/block-export.json`).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use strata_storage::nbd::wire::Address;

use super::{BitmapRef, CmdError, SocketAddress, SocketAddressLegacy};

/// `nbd-server-start`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NbdServerStart {
    /// Where to listen.
    pub addr: SocketAddressLegacy,
    /// Id of the credentials with which clients have to start TLS; in the clear if `None`.
    pub tls_creds: Option<String>,
    /// Not available.
    pub tls_authz: Option<String>,
    /// Clients at a time; no limit of the user's if 0 or `None`.
    pub max_connections: Option<u32>,
    /// Also export every disk, writable or not (HMP `-a`, `-w`).
    #[serde(skip)]
    pub all: Option<Writable>,
}

impl NbdServerStart {
    /// A server at `address`, in the clear and without a limit.
    pub fn at(address: Address) -> Self {
        Self {
            addr: address.into(),
            tls_creds: None,
            tls_authz: None,
            max_connections: None,
            all: None,
        }
    }

    pub(super) fn check(&self) -> Result<(), CmdError> {
        if self.tls_authz.is_some() {
            return Err(CmdError::generic(
                "tls-authz is not available: a certificate of the CA is what counts",
            ));
        }
        self.addr.address().map(drop)
    }
}

/// `nbd-server-add`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NbdServerAdd {
    /// What clients ask for; the disk's name if `None`.
    pub name: Option<String>,
    /// For people who list the exports.
    pub description: Option<String>,
    /// The disk.
    pub device: String,
    /// Clients may write; they may not if `None`.
    pub writable: Option<bool>,
    /// A dirty bitmap that clients may read.
    pub bitmap: Option<String>,
}

/// `nbd-server-remove`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NbdServerRemove {
    /// What clients ask for.
    pub name: String,
    /// Whether clients are cut off; [`RemoveMode::Safe`] if `None`.
    pub mode: Option<RemoveMode>,
}

/// `BlockExportOptions`: the members of all types of exports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BlockExportAdd {
    /// Kind of export.
    #[serde(rename = "type")]
    pub kind: ExportType,
    /// The export's name in the monitor.
    pub id: String,
    /// The disk, or the node name of a layer.
    pub node_name: String,
    /// Clients may write; they may not if `None`.
    pub writable: Option<bool>,
    /// Not available.
    pub writethrough: Option<bool>,
    /// What NBD clients ask for; the node name if `None`.
    pub name: Option<String>,
    /// For people who list the exports of an NBD server.
    pub description: Option<String>,
    /// Changes nothing: this context is always offered.
    pub allocation_depth: Option<bool>,
    /// Dirty bitmaps that NBD clients may read.
    pub bitmaps: Option<Vec<BitmapRef>>,
    /// Where a vhost-user export listens; must be given for one.
    pub addr: Option<SocketAddress>,
    /// Request queues of a vhost-user export; 1 if `None`.
    pub num_queues: Option<u16>,
    /// Bytes; 512 or `None`.
    pub logical_block_size: Option<u32>,
}

impl BlockExportAdd {
    /// An export without options.
    pub fn new(kind: ExportType, id: impl Into<String>, node_name: impl Into<String>) -> Self {
        Self {
            kind,
            id: id.into(),
            node_name: node_name.into(),
            writable: None,
            writethrough: None,
            name: None,
            description: None,
            allocation_depth: None,
            bitmaps: None,
            addr: None,
            num_queues: None,
            logical_block_size: None,
        }
    }

    pub(super) fn check(&self) -> Result<(), CmdError> {
        if self.writethrough == Some(true) {
            return Err(CmdError::generic(
                "writethrough is not available for exports: give the disk cache=writethrough",
            ));
        }
        match self.kind {
            ExportType::Nbd => Ok(()),
            ExportType::VhostUserBlk => self.vhost_user().map(drop),
        }
    }

    /// How it is served, where it is a vhost-user export.
    ///
    /// # Errors
    /// There is no path to listen at; sectors have another size.
    pub fn vhost_user(&self) -> Result<VhostUserSpec, CmdError> {
        let missing = || CmdError::generic("Parameter 'addr.path' is missing");
        let path = self.addr.as_ref().ok_or_else(missing)?.unix_path()?;
        if self.logical_block_size.is_some_and(|size| size != 512) {
            return Err(CmdError::generic(
                "Parameter 'logical-block-size' expects 512: disks have sectors of 512 bytes",
            ));
        }
        Ok(VhostUserSpec {
            path: path.ok_or_else(missing)?.to_owned(),
            queues: self.num_queues.unwrap_or(1),
            writable: self.writable.unwrap_or(false),
        })
    }
}

/// `block-export-del`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BlockExportDel {
    /// The export's name in the monitor.
    pub id: String,
    /// Whether clients are cut off; [`RemoveMode::Safe`] if `None`.
    pub mode: Option<RemoveMode>,
}

/// `BlockExportRemoveMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemoveMode {
    /// Refused while clients use the export.
    Safe,
    /// Also if clients use it.
    Hard,
}

/// How a disk is offered to other people's virtual machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VhostUserSpec {
    /// The socket to listen at.
    pub path: PathBuf,
    /// Request queues; at least 1.
    pub queues: u16,
    /// The guest may write.
    pub writable: bool,
}

/// Whether clients may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writable(pub bool);

/// `BlockExportType`, as far as it exists here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExportType {
    /// On the NBD server.
    Nbd,
    /// A virtio-blk device for another virtual machine.
    VhostUserBlk,
}

/// `BlockExportInfo`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExportInfo {
    /// The export's name in the monitor.
    pub id: String,
    /// Kind of export.
    #[serde(rename = "type")]
    pub kind: ExportType,
    /// The node name of the disk's top layer.
    pub node_name: String,
    /// It is being removed, and waits for its clients to go.
    pub shutting_down: bool,
}
