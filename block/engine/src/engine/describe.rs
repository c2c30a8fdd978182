//! What the monitor and `strata-img info` say of disks and images.

use std::{rc::Rc, sync::Arc};

use strata_format::qcow2::{Qcow2, Snapshot};
use strata_graph::{Backend, DetectZeroes, Format, GuestDisk, Node, chain};

use super::{Engine, bitmaps, throttling};
use crate::api::{BlockDeviceInfo, BlockInfo, CacheInfo, ImageInfo, SnapshotInfo, ThrottleInfo};

impl Engine {
    /// `query-block`: the drives in the order in which they came.
    pub(super) fn query_block(&self) -> Vec<BlockInfo> {
        let backends = self.backends.borrow();
        backends
            .iter()
            .map(|backend| describe_drive(backend))
            // What `blockdev-add` has opened is no disk before a device has it.
            .filter(|info| !info.device.is_empty() || info.qdev.is_some())
            .collect()
    }

    /// `query-named-block-nodes`: every layer of every disk, in the order in which QEMU lists those
    /// of disks that it has opened. Each is looked at once, and describes those below it unless the
    /// list is `flat`.
    pub(super) fn query_named_block_nodes(&self, flat: bool) -> Vec<BlockDeviceInfo> {
        let mut nodes = Vec::new();
        for disk in self.disks.borrow().iter() {
            nodes.extend(describe_chain(disk, flat));
        }
        nodes.reverse();
        nodes
    }
}

fn throttle_info(backend: &Backend) -> ThrottleInfo {
    let group = backend.throttle_group();
    group.map_or_else(ThrottleInfo::default, |group| {
        throttling::throttle_info(group.name(), &group.limits())
    })
}

fn describe_drive(backend: &Backend) -> BlockInfo {
    let (device, tray, disk) = (backend.device(), backend.tray(), backend.disk());
    let status = disk.as_ref().map(|disk| disk.io_status());
    BlockInfo {
        device: backend.options().id.clone(),
        qdev: (!device.is_empty()).then_some(device),
        kind: "unknown".to_owned(),
        removable: backend.options().removable,
        locked: tray.as_ref().is_some_and(|tray| tray.is_locked()),
        tray_open: tray.map(|tray| tray.is_open()),
        io_status: Some(status.unwrap_or_default().name().to_owned()),
        inserted: disk.map(|disk| BlockDeviceInfo {
            throttle: throttle_info(backend),
            ..describe_top(&disk)
        }),
    }
}

/// The top layer of a disk.
fn describe_top(disk: &GuestDisk) -> BlockDeviceInfo {
    let root = disk.root();
    let mut info = describe_layer(disk, &root, image_info(&root));
    info.cache.writeback = !disk.options().writethrough;
    info.backing_file_depth = depth(&root);
    info
}

/// The layers of a disk from the top down.
fn describe_chain(disk: &GuestDisk, flat: bool) -> Vec<BlockDeviceInfo> {
    let layers: Vec<_> = disk.root().chain().collect();
    let mut below: Option<Arc<ImageInfo>> = None;
    let mut infos = Vec::with_capacity(layers.len());
    for (depth, node) in (0..).zip(layers.iter().rev()) {
        let mut image = layer_info(node);
        if !flat {
            image.backing_image = below.take();
            below = Some(Arc::new(image.clone()));
        }
        let mut info = describe_layer(disk, node, image);
        if !flat {
            info.backing_file_depth = depth;
        }
        infos.push(info);
    }
    infos.reverse();
    infos
}

/// Layers below.
fn depth(node: &Rc<Node>) -> u32 {
    u32::try_from(node.chain().count() - 1).unwrap_or(u32::MAX)
}

/// A layer of `disk`, as if nothing were below it. Writing through is a matter of the disk, not of
/// the layer.
fn describe_layer(disk: &GuestDisk, node: &Rc<Node>, image: ImageInfo) -> BlockDeviceInfo {
    let options = disk.options();
    let is_top = Rc::ptr_eq(node, &disk.root());
    let detect_zeroes = if is_top {
        options.detect_zeroes
    } else {
        DetectZeroes::Off
    };
    BlockDeviceInfo {
        file: node.path().display().to_string(),
        node_name: node.name().to_owned(),
        ro: !node.is_writable(),
        drv: node.format().name().to_owned(),
        backing_file: node
            .backing()
            .map(|below| below.path().display().to_string()),
        backing_file_depth: 0,
        encrypted: false,
        detect_zeroes: detect_zeroes.name().to_owned(),
        cache: CacheInfo {
            writeback: true,
            direct: options.direct,
            no_flush: options.no_flush,
        },
        throttle: ThrottleInfo::default(),
        dirty_bitmaps: bitmaps::describe(node),
        image,
    }
}

/// What is said of a layer and, nested, of those below it.
fn image_info(node: &Rc<Node>) -> ImageInfo {
    let mut info = layer_info(node);
    info.backing_image = node.backing().map(|below| Arc::new(image_info(&below)));
    info
}

/// What `qemu-img info` says of a layer alone.
pub fn layer_info(node: &Node) -> ImageInfo {
    let image = node.image().as_qcow2();
    let backing = node.image().backing_name();
    let full = backing
        .as_ref()
        .and_then(|backing| chain::resolve(node.path(), backing).ok());
    ImageInfo {
        virtual_size: node.size(),
        filename: node.path().display().to_string(),
        cluster_size: (node.format() != Format::Raw).then(|| node.cluster_size()),
        format: node.format().name().to_owned(),
        actual_size: node.image().storage().allocated_bytes(),
        snapshots: Vec::new(),
        encrypted: image.is_some_and(|image| image.encryption().is_some()),
        format_specific: image.map(Qcow2::format_specific),
        full_backing_filename: full.map(|path| path.display().to_string()),
        backing_filename_format: backing.as_ref().and_then(|backing| backing.format.clone()),
        backing_filename: backing.map(|backing| backing.name.display().to_string()),
        dirty_flag: node.image().is_dirty(),
        backing_image: None,
    }
}

impl From<&Snapshot> for SnapshotInfo {
    fn from(snapshot: &Snapshot) -> Self {
        const SECOND: u64 = 1_000_000_000;
        Self {
            id: snapshot.id.clone(),
            name: snapshot.name.clone(),
            vm_state_size: snapshot.vm_state_size,
            date_sec: snapshot.date.0,
            date_nsec: snapshot.date.1,
            vm_clock_sec: snapshot.vm_clock_nsec / SECOND,
            vm_clock_nsec: snapshot.vm_clock_nsec % SECOND,
            icount: snapshot.icount,
        }
    }
}
