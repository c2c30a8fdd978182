//! Commands about exports, and what they answer (`qapi/block-export.json`).

use std::path::PathBuf;

use serde::Serialize;

use super::BitmapRef;
use crate::storage::nbd::wire::Address;

/// A command about the NBD server and its exports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportCmd {
    /// `nbd-server-start`.
    ServerStart {
        /// Where to listen.
        address: Address,
        /// Clients at a time; no limit of the user's if `None`.
        max_connections: Option<u32>,
        /// Id of the credentials with which clients have to start TLS; in the clear if `None`.
        tls_creds: Option<String>,
        /// Also export every disk, writable or not (HMP `-a`, `-w`).
        all: Option<Writable>,
    },
    /// `nbd-server-stop`: all servers, also those that were started from the command line.
    ServerStop,
    /// `nbd-server-add`.
    ServerAdd {
        /// The disk.
        device: String,
        /// What clients ask for; the disk's name if `None`.
        name: Option<String>,
        /// For people who list the exports.
        description: Option<String>,
        /// Clients may write.
        writable: bool,
        /// A dirty bitmap that clients may read.
        bitmap: Option<String>,
    },
    /// `nbd-server-remove`.
    ServerRemove {
        /// What clients ask for.
        name: String,
        /// Also if clients use it.
        hard: bool,
    },
    /// `block-export-add`.
    Add {
        /// The export's name in the monitor.
        id: String,
        /// The disk, or the node name of its top layer.
        node_name: String,
        /// What clients ask for; the node name if `None`.
        name: Option<String>,
        /// For people who list the exports.
        description: Option<String>,
        /// Clients may write.
        writable: bool,
        /// Dirty bitmaps that clients may read.
        bitmaps: Vec<BitmapRef>,
    },
    /// `block-export-add` with type `vhost-user-blk`.
    AddVhostUser {
        /// The export's name in the monitor.
        id: String,
        /// The disk, or the node name of its top layer.
        node_name: String,
        /// How it is served.
        spec: VhostUserSpec,
    },
    /// `block-export-del`.
    Delete {
        /// The export's name in the monitor.
        id: String,
        /// Also if clients use it.
        hard: bool,
    },
    /// `query-block-exports`.
    Query,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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
