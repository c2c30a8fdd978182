//! `blockdev-snapshot-sync`: a new overlay on top of a disk, while its guest runs; `transaction`:
//! on several disks.

use std::{
    path::{Path, PathBuf, absolute},
    rc::Rc,
};

use strata_format::{backing::Backing, qcow2::CreateOptions, qed};
use strata_graph::{
    Edit, Format, GuestDisk, Hold, Name, NameError, NewImage, Node, Purpose,
    chain::{ImageOptions, MAX_LAYERS},
    check_leads_to, create_image_in,
};
use strata_storage::{Access, absolute_name, is_unnamed};

use super::{Engine, find::check_writable, refused};
use crate::api::{
    BlockdevSnapshotSync, CmdError, NewImageMode, NoData, Reply, Transaction, TransactionAction,
};

/// Clusters of a new overlay, in bytes: QEMU's default.
const CLUSTER_SIZE: u64 = 65536;

/// An overlay that is to be put on a disk.
struct Overlay {
    disk: Rc<GuestDisk>,
    /// The disk's top.
    old: Rc<Node>,
    /// Keeps others from it.
    hold: Hold,
    path: PathBuf,
    /// Reserved from the beginning.
    node_name: Name,
    existing: bool,
    format: Format,
}

/// The same once it is open.
struct Opened {
    disk: Rc<GuestDisk>,
    old: Rc<Node>,
    hold: Hold,
    new: Rc<Node>,
}

/// What has been made for overlays, to be removed if they are not put on their disks.
#[derive(Default)]
struct Made {
    paths: Vec<PathBuf>,
    /// The lines that QEMU prints when it makes an image.
    lines: Vec<String>,
}

impl Engine {
    /// Makes the overlay and its name durable, then drains the disk, flushes its old top, and puts
    /// the overlay above it.
    pub(super) async fn snapshot(&self, cmd: BlockdevSnapshotSync) -> Result<Reply, CmdError> {
        let line = self.snapshot_all(vec![cmd]).await?.pop();
        Ok(line.map_or(Reply::Done, Reply::Formatted))
    }

    /// `transaction`: all of it or nothing, and at one moment.
    pub(super) async fn transaction(&self, cmd: Transaction) -> Result<Reply, CmdError> {
        let mut snapshots = Vec::new();
        for action in cmd.actions {
            match action {
                TransactionAction::BlockdevSnapshotSync(cmd) => snapshots.push(cmd),
                TransactionAction::Abort(NoData {}) => {
                    return Err(refused("Transaction aborted using Abort action"));
                }
            }
        }
        self.snapshot_all(snapshots).await?;
        Ok(Reply::Done)
    }

    /// Puts overlays on several disks, all of them or none. While that happens all are at rest: of
    /// two changes of which one has waited for the other no overlay hides the first alone.
    async fn snapshot_all(&self, cmds: Vec<BlockdevSnapshotSync>) -> Result<Vec<String>, CmdError> {
        let mut overlays = Vec::new();
        for cmd in cmds {
            overlays.push(self.find_overlay(cmd)?);
        }
        let mut made = Made::default();
        let result = self.put_on_top(overlays, &mut made).await;
        if result.is_err() {
            // Nothing points at them, and the error that is reported says more.
            for path in &made.paths {
                self.opener.files().remove(path);
            }
        }
        result.map(|()| made.lines)
    }

    fn find_overlay(&self, cmd: BlockdevSnapshotSync) -> Result<Overlay, CmdError> {
        let disk = self.find_top(&cmd.disk())?;
        let file = &cmd.snapshot_file;
        let path = absolute(file)
            .map_err(|error| refused(format!("Could not create '{file}': {error}")))?;
        let old = disk.root();
        Ok(Overlay {
            hold: Hold::take(&disk, [old.clone()], Purpose::Snapshot)?,
            format: check_overlay(&disk, cmd.format.as_deref().unwrap_or("qcow2"))?,
            node_name: self.reserve_node_name(cmd.snapshot_node_name.as_deref())?,
            existing: cmd.mode == Some(NewImageMode::Existing),
            path,
            old,
            disk,
        })
    }

    fn reserve_node_name(&self, wanted: Option<&str>) -> Result<Name, CmdError> {
        let names = self.opener.names();
        let Some(name) = wanted else {
            return Ok(names.made_up());
        };
        names.layer(name).map_err(|error| match error {
            NameError::Malformed(_) => refused(error.to_string()),
            _ => refused("New overlay node-name already in use"),
        })
    }

    /// Refuses an overlay whose header does not lead to what lies below it, or from which the chain
    /// would not be opened again.
    fn check_header(
        &self,
        disk: &GuestDisk,
        old: &Node,
        (path, format): (&Path, Format),
        backing: Option<&Backing>,
    ) -> Result<(), CmdError> {
        let files = self.opener.files();
        check_leads_to(files, (path, format), backing, old, disk.image_options())
            .map_err(|error| refused(error.to_string()))
    }

    async fn create_overlay(&self, overlay: &Overlay) -> Result<String, CmdError> {
        let (disk, old) = (&overlay.disk, &overlay.old);
        let (path, format) = (&overlay.path, overlay.format);
        let backing = Backing {
            name: absolute_name(old.path()).into_os_string(),
            format: Some(old.format().to_string()),
        };
        self.check_header(disk, old, (path, format), Some(&backing))?;
        let line = formatting(path, format, old.size(), &backing);
        let image = new_image(format, old.size(), backing);
        create_image_in(self.opener.files(), &self.exec, path, image)
            .await
            .map_err(|error| match error {
                strata_storage::error::Error::File {
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

    async fn put_on_top(&self, overlays: Vec<Overlay>, made: &mut Made) -> Result<(), CmdError> {
        let mut all = Vec::new();
        for overlay in overlays {
            all.push(self.open_overlay(overlay, made).await?);
        }
        let mut edit = Edit::default();
        for one in &all {
            edit = edit.overlay(&one.disk, &one.new, &one.hold);
        }
        edit.check()?;
        for one in &all {
            self.check_opened(one)?;
            // Most of what has to be flushed is flushed while the guest goes on.
            one.old
                .flush()
                .await
                .map_err(|error| failed(error.into()))?;
        }
        let drained = edit.drain().await;
        for one in &all {
            // Nothing is written to it any more, not even refcounts.
            one.old.image().settle().await.map_err(failed)?;
        }
        for one in &all {
            // Somebody may have been at the files meanwhile.
            self.check_opened(one)?;
        }
        drained.apply()?;
        for one in &all {
            make_backing_file(&one.old).await;
            warn_of_temporary(one);
        }
        Ok(())
    }

    /// Makes an overlay, unless it exists, and opens it.
    async fn open_overlay(&self, overlay: Overlay, made: &mut Made) -> Result<Opened, CmdError> {
        if !overlay.existing {
            let line = self.create_overlay(&overlay).await?;
            made.paths.push(overlay.path.clone());
            made.lines.push(line);
        }
        self.refuse_own_layer(&overlay.old, &overlay.path)?;
        let Overlay {
            disk,
            old,
            hold,
            path,
            node_name,
            format,
            ..
        } = overlay;
        let options = ImageOptions {
            format: Some(format),
            node_name: None,
            ..disk.image_options().clone()
        };
        let opened = self.opener.open_layer_as(node_name, &path, &options).await;
        let new = opened.map_err(failed)?;
        hold.add(new.clone());
        Ok(Opened {
            disk,
            old,
            hold,
            new,
        })
    }

    fn check_opened(&self, one: &Opened) -> Result<(), CmdError> {
        let new = (one.new.path(), one.new.format());
        let backing = one.new.image().backing_name();
        self.check_header(&one.disk, &one.old, new, backing.as_ref())
    }

    /// Refuses an overlay that lies in the chain already.
    fn refuse_own_layer(&self, old: &Rc<Node>, path: &Path) -> Result<(), CmdError> {
        let identity = self.opener.files().identity(path).ok();
        let is_it = |node: Rc<Node>| {
            identity.is_some() && node.image().storage().identity().ok() == identity
        };
        if old.chain().any(is_it) {
            return Err(refused("The overlay is already in use"));
        }
        Ok(())
    }
}

fn failed(error: strata_storage::error::Error) -> CmdError {
    refused(error.to_string())
}

fn warn_of_temporary(one: &Opened) {
    if is_unnamed(one.old.path()) {
        tracing::warn!(
            disk = one.disk.options().id, overlay = %one.new.path().display(),
            "the overlay lies on a temporary one, without which it cannot be opened: copy that \
             with block_stream, or both are lost at the end"
        );
    }
}

/// The format of an overlay for a disk that can have one.
fn check_overlay(disk: &GuestDisk, format: &str) -> Result<Format, CmdError> {
    check_writable(disk)?;
    if disk.root().chain().count() >= MAX_LAYERS {
        return Err(refused(format!(
            "Disk '{}' has {MAX_LAYERS} layers: merge some of them first",
            disk.options().id
        )));
    }
    match format.parse() {
        Ok(format @ (Format::Qcow2 | Format::Qed)) => Ok(format),
        Ok(Format::Raw) => Err(refused("The overlay does not support backing images")),
        Err(_) => Err(refused(format!("Unknown driver '{format}'"))),
    }
}

/// Writes what the old top still has to say of clusters that were freed, then lets others use it as
/// their backing file too. The snapshot has been taken, so neither can fail it.
async fn make_backing_file(old: &Node) {
    let result = match old.image().settle().await {
        Ok(()) => old.image().lock(Access::Read),
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
    let (path, name) = (path.display(), backing.name.display());
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
