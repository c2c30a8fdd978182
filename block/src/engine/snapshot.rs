//! `blockdev-snapshot-sync`: a new overlay on top of a disk, while its guest runs.

use std::{
    path::{Path, PathBuf, absolute},
    rc::Rc,
};

use super::{Engine, NewImage, check_free, check_node_name, create::create_image_in, refused};
use crate::{
    api::{Cmd, CmdError, Reply},
    graph::{Format, GuestDisk, Node, chain::ImageOptions},
    qcow2::{Backing, CreateOptions},
    qed,
    storage::{Access, absolute_name},
};

/// Clusters of a new overlay, in bytes: QEMU's default.
const CLUSTER_SIZE: u64 = 65536;

struct Overlay {
    path: PathBuf,
    node_name: Option<String>,
    existing: bool,
    format: Format,
}

impl Engine {
    /// Makes the overlay and its name durable, then drains the disk, flushes its old top, and puts
    /// the overlay above it.
    pub(super) async fn snapshot(&self, cmd: Cmd) -> Result<Reply, CmdError> {
        let Cmd::SnapshotSync {
            device,
            snapshot_file,
            snapshot_node_name,
            format,
            existing,
        } = cmd
        else {
            unreachable!("called for a snapshot");
        };
        let disk = self.find_disk(&device).ok_or_else(|| no_disk(&device))?;
        let path = absolute(&snapshot_file)
            .map_err(|error| refused(format!("Could not create '{snapshot_file}': {error}")))?;
        let format = self.check_overlay(&disk, snapshot_node_name.as_deref(), &format)?;
        let overlay = Overlay {
            path,
            node_name: snapshot_node_name,
            existing,
            format,
        };
        disk.set_holder(Some("snapshot"));
        let result = self.overlay(&disk, overlay).await;
        disk.set_holder(None);
        result
    }

    fn check_overlay(
        &self,
        disk: &GuestDisk,
        node_name: Option<&str>,
        format: &str,
    ) -> Result<Format, CmdError> {
        check_free(disk)?;
        if disk.options().read_only {
            return Err(refused(format!(
                "Disk '{}' is read-only",
                disk.options().id
            )));
        }
        let format = match format.parse() {
            Ok(format @ (Format::Qcow2 | Format::Qed)) => format,
            Ok(Format::Raw) => {
                return Err(refused("The overlay does not support backing images"));
            }
            Err(_) => return Err(refused(format!("Unknown driver '{format}'"))),
        };
        let Some(name) = node_name else {
            return Ok(format);
        };
        check_node_name(name).map_err(refused)?;
        if self.node_name_in_use(name) {
            return Err(refused("New overlay node-name already in use"));
        }
        Ok(format)
    }

    async fn overlay(&self, disk: &Rc<GuestDisk>, overlay: Overlay) -> Result<Reply, CmdError> {
        let old = disk.root();
        let line = if overlay.existing {
            None
        } else {
            Some(self.create_overlay(&old, &overlay).await?)
        };
        let result = self.put_on_top(disk, &old, &overlay).await;
        if result.is_err() && !overlay.existing {
            // Nothing points at it, and the error that is reported says more.
            self.opener.files().remove(&overlay.path);
        }
        result?;
        Ok(line.map_or(Reply::Done, Reply::Formatted))
    }

    async fn create_overlay(&self, old: &Node, overlay: &Overlay) -> Result<String, CmdError> {
        let path = &overlay.path;
        let backing = Backing {
            name: absolute_name(old.path()).display().to_string(),
            format: Some(old.format().to_string()),
        };
        let line = formatting(path, overlay.format, old.size(), &backing);
        let image = new_image(overlay.format, old.size(), backing);
        create_image_in(self.opener.files(), &self.exec, path, image)
            .await
            .map_err(|error| match error {
                crate::error::Error::File {
                    what: "create",
                    file,
                    source,
                } => {
                    let why = rustix::io::Errno::from_io_error(&source)
                        .map_or_else(|| source.to_string(), |_| plain(&source));
                    refused(format!("Could not create '{}': {why}", file.display()))
                }
                error => refused(error.to_string()),
            })?;
        Ok(line)
    }

    async fn put_on_top(
        &self,
        disk: &Rc<GuestDisk>,
        old: &Rc<Node>,
        overlay: &Overlay,
    ) -> Result<(), CmdError> {
        let options = ImageOptions {
            format: Some(overlay.format),
            read_only: false,
            no_flush: disk.options().no_flush,
            direct: disk.options().direct,
            discard: disk.options().discard,
            node_name: overlay.node_name.clone(),
            ..ImageOptions::default()
        };
        let failed = |error: crate::error::Error| refused(error.to_string());
        if old
            .chain()
            .any(|node| same_file(node.path(), &overlay.path))
        {
            return Err(refused("The overlay is already in use"));
        }
        let new = self
            .opener
            .open_layer(&overlay.path, &options)
            .await
            .map_err(failed)?;
        if new.size() != old.size() {
            return Err(refused(format!(
                "The overlay shows {} bytes, the disk has {}",
                new.size(),
                old.size()
            )));
        }
        // Most of what has to be flushed is flushed while the guest goes on.
        old.flush().await.map_err(|error| failed(error.into()))?;
        let drained = disk.gate().drain().await;
        // Nothing is written to it any more, not even refcounts.
        old.settle().await.map_err(failed)?;
        old.set_read_only();
        new.set_backing_node(Some(old.clone()));
        disk.set_root(new);
        drop(drained);
        make_backing_file(old).await;
        Ok(())
    }
}

/// Writes what the old top still has to say of clusters that were freed, then lets others use it as
/// their backing file too. The snapshot has been taken, so neither can fail it.
async fn make_backing_file(old: &Node) {
    let result = match old.settle().await {
        Ok(()) => old.lock(Access::Read),
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        tracing::warn!(%error, "a layer stays locked for writing below its overlay");
    }
}

/// Without the "(os error 2)" that Rust appends: QEMU's users know the bare text.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

fn same_file(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

pub(super) fn no_disk(name: &str) -> CmdError {
    refused(format!("Cannot find device='{name}' nor node-name=''"))
}

/// What is made for an overlay of `size` bytes.
fn new_image(format: Format, size: u64, backing: Backing) -> NewImage {
    let backing = Some(backing);
    match format {
        Format::Qed => NewImage::Qed(qed::CreateOptions {
            size,
            cluster_size: CLUSTER_SIZE,
            backing,
            ..Default::default()
        }),
        _ => NewImage::Qcow2(CreateOptions {
            size,
            cluster_size: CLUSTER_SIZE,
            backing,
            ..Default::default()
        }),
    }
}

/// The line that QEMU prints when it makes an image.
fn formatting(path: &Path, format: Format, size: u64, backing: &Backing) -> String {
    let (path, name) = (path.display(), &backing.name);
    let backing_format = backing.format.as_deref().unwrap_or_default();
    let backing = format!("backing_file={name} backing_fmt={backing_format}");
    match format {
        Format::Qed => format!(
            "Formatting '{path}', fmt=qed size={size} {backing} cluster_size={CLUSTER_SIZE}"
        ),
        _ => format!(
            "Formatting '{path}', fmt=qcow2 cluster_size={CLUSTER_SIZE} extended_l2=off \
             compression_type=zlib size={size} {backing} lazy_refcounts=off refcount_bits=16"
        ),
    }
}
