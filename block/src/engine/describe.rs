//! What the monitor and `strata-img info` say of disks and images.

use std::rc::Rc;

use super::{Engine, bitmaps};
use crate::{
    api::{BlockDeviceInfo, BlockInfo, CacheInfo, ImageInfo},
    graph::{Format, GuestDisk, Node, chain},
    qcow2::Qcow2,
};

impl Engine {
    /// `query-block`.
    pub(super) fn query_block(&self) -> Vec<BlockInfo> {
        self.disks
            .borrow()
            .iter()
            .map(|disk| describe_disk(disk))
            .collect()
    }
}

fn describe_disk(disk: &GuestDisk) -> BlockInfo {
    let options = disk.options();
    let root = disk.root();
    let depth = root.chain().count() - 1;
    BlockInfo {
        device: options.id.clone(),
        qdev: (!options.device.is_empty()).then(|| options.device.clone()),
        kind: "unknown".to_owned(),
        removable: false,
        locked: false,
        io_status: Some(disk.io_status().name().to_owned()),
        inserted: BlockDeviceInfo {
            file: root.path().display().to_string(),
            node_name: root.name().to_owned(),
            ro: !root.is_writable(),
            drv: root.format().name().to_owned(),
            backing_file: root.backing().map(|node| node.path().display().to_string()),
            backing_file_depth: u32::try_from(depth).unwrap_or(u32::MAX),
            encrypted: false,
            detect_zeroes: options.detect_zeroes.name().to_owned(),
            cache: CacheInfo {
                writeback: !options.writethrough,
                direct: options.direct,
                no_flush: options.no_flush,
            },
            dirty_bitmaps: bitmaps::describe(&root),
            image: image_info(&root),
        },
    }
}

/// What `qemu-img info` says of a layer and, nested, of those below it.
pub fn image_info(node: &Rc<Node>) -> ImageInfo {
    let mut info = layer_info(node);
    info.backing_image = node.backing().map(|below| Box::new(image_info(&below)));
    info
}

fn layer_info(node: &Node) -> ImageInfo {
    let image = node.as_qcow2();
    let backing = node.backing_name();
    let full = backing
        .as_ref()
        .and_then(|backing| chain::resolve(node.path(), backing).ok());
    ImageInfo {
        virtual_size: node.size(),
        filename: node.path().display().to_string(),
        cluster_size: (node.format() != Format::Raw).then(|| node.cluster_size()),
        format: node.format().name().to_owned(),
        actual_size: node.storage().allocated_bytes(),
        snapshots: Vec::new(),
        encrypted: image.is_some_and(|image| image.encryption().is_some()),
        format_specific: image.map(Qcow2::format_specific),
        full_backing_filename: full.map(|path| path.display().to_string()),
        backing_filename_format: backing.as_ref().and_then(|backing| backing.format.clone()),
        backing_filename: backing.map(|backing| backing.name),
        dirty_flag: node.is_dirty(),
        backing_image: None,
    }
}
