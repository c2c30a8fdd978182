//! `blockdev-snapshot-sync`, `blockdev-snapshot`: an overlay on top of a disk, while its guest
//! runs.

use std::{
    path::{Path, PathBuf, absolute},
    rc::Rc,
};

use strata_format::{backing::Backing, qcow2::CreateOptions, qed};
use strata_graph::{
    Backend, Format, GuestDisk, Hold, Name, NameError, NewImage, Node, Purpose,
    chain::{ImageOptions, MAX_LAYERS},
    check_leads_to, create_image_in,
};
use strata_storage::{Access, absolute_name, is_unnamed};

use super::{Engine, find::check_writable, refused, transaction::Plan};
use crate::api::{BlockdevSnapshot, BlockdevSnapshotSync, CmdError, DiskName, NewImageMode, Reply};

/// Clusters of a new overlay, in bytes: QEMU's default.
const CLUSTER_SIZE: u64 = 65536;

/// An overlay that is to be put on a disk.
pub(super) struct Overlay {
    disk: Rc<GuestDisk>,
    /// The disk's top.
    old: Rc<Node>,
    /// Keeps others from it.
    hold: Hold,
    source: Source,
}

/// Where an overlay comes from.
enum Source {
    /// A file, which is made first unless it is `existing`.
    File {
        path: PathBuf,
        /// Reserved from the beginning.
        node_name: Name,
        existing: bool,
        format: Format,
    },
    /// What `blockdev-add` has opened.
    Added(Rc<GuestDisk>),
}

/// The same once it is open.
pub(super) struct Opened {
    pub disk: Rc<GuestDisk>,
    pub old: Rc<Node>,
    pub hold: Hold,
    pub new: Rc<Node>,
    /// What `blockdev-add` has opened it as.
    added: Option<Rc<GuestDisk>>,
}

/// What has been made for overlays, to be removed if they are not put on their disks.
#[derive(Default)]
pub(super) struct Made {
    pub paths: Vec<PathBuf>,
    /// The lines that QEMU prints when it makes an image.
    pub lines: Vec<String>,
}

impl Engine {
    /// `blockdev-snapshot-sync`: makes the overlay and its name durable, then drains the disk,
    /// flushes its old top, and puts the overlay above it.
    pub(super) async fn snapshot(&self, cmd: BlockdevSnapshotSync) -> Result<Reply, CmdError> {
        let mut plan = Plan::default();
        plan.overlays.push(self.find_overlay(cmd)?);
        let line = self.carry_out(plan).await?.pop();
        Ok(line.map_or(Reply::Done, Reply::Formatted))
    }

    /// `blockdev-snapshot`: the same with an overlay that is open.
    pub(super) async fn snapshot_onto_node(
        &self,
        cmd: BlockdevSnapshot,
    ) -> Result<Reply, CmdError> {
        let mut plan = Plan::default();
        plan.overlays.push(self.find_added_overlay(&cmd)?);
        self.carry_out(plan).await?;
        Ok(Reply::Done)
    }

    pub(super) fn find_overlay(&self, cmd: BlockdevSnapshotSync) -> Result<Overlay, CmdError> {
        let disk = self.find_top(&cmd.disk())?;
        let file = &cmd.snapshot_file;
        let path = absolute(file)
            .map_err(|error| refused(format!("Could not create '{file}': {error}")))?;
        let old = disk.root();
        Ok(Overlay {
            hold: Hold::take(&disk, [old.clone()], Purpose::Snapshot)?,
            source: Source::File {
                format: check_overlay(&disk, cmd.format.as_deref().unwrap_or("qcow2"))?,
                node_name: self.reserve_node_name(cmd.snapshot_node_name.as_deref())?,
                existing: cmd.mode == Some(NewImageMode::Existing),
                path,
            },
            old,
            disk,
        })
    }

    pub(super) fn find_added_overlay(&self, cmd: &BlockdevSnapshot) -> Result<Overlay, CmdError> {
        let named = |name: &str| DiskName {
            device: Some(name.to_owned()),
            node_name: Some(name.to_owned()),
        };
        let disk = self.find_top(&named(&cmd.node))?;
        let old = disk.root();
        let hold = Hold::take(&disk, [old.clone()], Purpose::Snapshot)?;
        check_snapshot(&disk)?;
        let overlay = &cmd.overlay;
        let found = self.find_layer(overlay);
        let (added, new) =
            found.ok_or_else(|| refused(format!("Cannot find {}", named(overlay))))?;
        let is_free = |backend: &Backend| {
            let is_added = backend.options().id.is_empty() && backend.device().is_empty();
            backend.has(&added) && is_added
        };
        if !Rc::ptr_eq(&added.root(), &new) || !self.any_backend(is_free) {
            return Err(refused("The overlay is already in use"));
        }
        drop(self.hold_unused(&added)?);
        if new.backing().is_some() {
            return Err(refused("The overlay already has a backing image"));
        }
        if new.format() == Format::Raw {
            return Err(refused("The overlay does not support backing images"));
        }
        if !new.is_writable() {
            return Err(refused(format!("Node '{overlay}' is read only")));
        }
        hold.add(new);
        Ok(Overlay {
            disk,
            old,
            hold,
            source: Source::Added(added),
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

    async fn create_overlay(
        &self,
        (disk, old): (&GuestDisk, &Node),
        (path, format): (&Path, Format),
    ) -> Result<String, CmdError> {
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

    /// Makes an overlay, unless it exists, and opens it, unless it is open.
    pub(super) async fn open_overlay(
        &self,
        overlay: Overlay,
        made: &mut Made,
    ) -> Result<Opened, CmdError> {
        let Overlay {
            disk,
            old,
            hold,
            source,
        } = overlay;
        let (new, added) = match source {
            Source::Added(added) => (added.root(), Some(added)),
            Source::File {
                path,
                node_name,
                existing,
                format,
            } => {
                if !existing {
                    let line = self.create_overlay((&disk, &old), (&path, format)).await?;
                    made.paths.push(path.clone());
                    made.lines.push(line);
                }
                self.refuse_own_layer(&old, &path)?;
                let options = ImageOptions {
                    format: Some(format),
                    data_file: None,
                    node_name: None,
                    ..disk.image_options().clone()
                };
                let opened = self.opener.open_layer_as(node_name, &path, &options).await;
                let new = opened.map_err(failed)?;
                hold.add(new.clone());
                (new, None)
            }
        };
        Ok(Opened {
            disk,
            old,
            hold,
            new,
            added,
        })
    }

    /// Refuses an overlay from which the chain would not be opened again as it will be.
    pub(super) fn check_opened(&self, one: &Opened) -> Result<(), CmdError> {
        let new = (one.new.path(), one.new.format());
        let backing = one.new.image().backing_name();
        self.check_header(&one.disk, &one.old, new, backing.as_ref())?;
        let named = self.opener.files().identity(one.new.path()).ok();
        if named.is_none() || named != one.new.image().storage().identity().ok() {
            return Err(refused(format!(
                "{}: that is not the file any more that was opened: it has been renamed or replaced",
                one.new.path().display()
            )));
        }
        Ok(())
    }

    /// Refuses an overlay that something else has got since.
    pub(super) fn check_added(&self, one: &Opened) -> Result<(), CmdError> {
        let Some(added) = &one.added else {
            return Ok(());
        };
        let in_use = |backend: &Backend| backend.has(added) && !backend.device().is_empty();
        let is_there = self
            .disks
            .borrow()
            .iter()
            .any(|disk| Rc::ptr_eq(disk, added));
        if !is_there || self.any_backend(in_use) {
            return Err(refused("The overlay is already in use"));
        }
        self.check_not_exported(added)
    }

    /// What `blockdev-add` has opened is part of a disk now, and no disk by itself.
    pub(super) fn adopt(&self, one: &Opened) {
        let Some(added) = &one.added else {
            return;
        };
        self.backends.borrow_mut().retain(|one| !one.has(added));
        self.disks
            .borrow_mut()
            .retain(|one| !Rc::ptr_eq(one, added));
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

impl Opened {
    /// Whether the disk that it is put on, or it itself, is called so.
    pub fn is_called(&self, name: &str) -> bool {
        self.new.name() == name || self.disk.options().id == name
    }

    /// Whether nobody else has it once it has not been put on its disk.
    pub fn is_to_be_closed(&self) -> bool {
        self.added.is_none()
    }

    /// What is left to do about an overlay that lies on its disk.
    pub async fn has_become_top(&self) {
        make_backing_file(&self.old).await;
        warn_of_temporary(self);
    }
}

pub(super) fn failed(error: strata_storage::error::Error) -> CmdError {
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
    check_snapshot(disk)?;
    match format.parse() {
        Ok(format @ (Format::Qcow2 | Format::Qed)) => Ok(format),
        Ok(Format::Raw) => Err(refused("The overlay does not support backing images")),
        Err(_) => Err(refused(format!("Unknown driver '{format}'"))),
    }
}

/// Refuses a disk that can have no overlay.
fn check_snapshot(disk: &GuestDisk) -> Result<(), CmdError> {
    check_writable(disk)?;
    if disk.root().chain().count() >= MAX_LAYERS {
        return Err(refused(format!(
            "Disk '{}' has {MAX_LAYERS} layers: merge some of them first",
            disk.options().id
        )));
    }
    Ok(())
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
