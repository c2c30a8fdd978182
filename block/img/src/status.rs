//! Where the bytes of a chain come from, in the terms of `qemu-img map`.

use std::rc::Rc;

use strata_format::extent::{Extent, ExtentKind};
use strata_graph::{Format, Node};
use strata_storage::error::IoResult;

/// A part of the disk that is stored in one way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Bytes.
    pub len: u64,
    /// Layers above the one that says so.
    pub depth: usize,
    /// A layer of the chain holds it; otherwise it is zero because nothing does.
    pub present: bool,
    /// Reads as zeros.
    pub zero: bool,
    /// Takes space.
    pub data: bool,
    /// Where it lies in that layer's file.
    pub offset: Option<u64>,
}

/// A chain, and which of its layers may hold tables that point to nothing but holes.
pub struct Chain {
    layers: Vec<(Rc<Node>, bool)>,
}

impl Chain {
    /// Looks at the layers from `top` down.
    pub async fn new(top: &Rc<Node>) -> IoResult<Self> {
        let mut layers = Vec::new();
        for node in top.chain() {
            let preallocated = match node.image().as_qcow2() {
                Some(image) => image.is_mostly_holes().await?,
                None => false,
            };
            layers.push((node, preallocated));
        }
        Ok(Self { layers })
    }

    /// The layer at `depth`.
    pub fn layer(&self, depth: usize) -> &Rc<Node> {
        &self.layers[depth].0
    }

    /// Bytes of the disk.
    pub fn size(&self) -> u64 {
        self.layers[0].0.size()
    }

    /// What the disk holds from `offset` on, for up to `len` bytes. The range lies on the disk.
    pub async fn status(&self, offset: u64, len: u64) -> IoResult<Status> {
        let walk = self.layers[0].0.walk();
        let found = walk.find(offset, len).await?;
        // What lies behind the end of a layer is not there, for QEMU: the layer above says so.
        let reach = self
            .layers
            .iter()
            .take_while(|(node, _)| offset < node.size());
        let depth = match found.depth as usize {
            0 => reach.count() - 1,
            found => (found - 1).min(reach.count() - 1),
        };
        let (node, preallocated) = &self.layers[depth];
        let status = layer_status(node, offset, found.len, depth, *preallocated).await?;
        Ok(Status {
            zero: status.zero || !status.data,
            ..status
        })
    }
}

/// What a layer holds that is not qcow2, and where. In a raw file holes have a place, too.
async fn unplaced_extent(node: &Node, offset: u64, len: u64) -> IoResult<(Extent, Option<u64>)> {
    let extent = node.extent(offset, len).await?;
    let place = match extent.kind {
        ExtentKind::Data { host_offset } => Some(host_offset),
        _ if node.format() == Format::Raw => Some(offset),
        _ => None,
    };
    Ok((extent, place))
}

async fn layer_status(
    node: &Node,
    offset: u64,
    len: u64,
    depth: usize,
    preallocated: bool,
) -> IoResult<Status> {
    let (extent, host_offset) = match node.image().as_qcow2() {
        Some(image) => image.placed_extent(offset, len).await?,
        None => unplaced_extent(node, offset, len).await?,
    };
    let mut status = Status {
        len: extent.len.min(len),
        depth,
        present: extent.kind != ExtentKind::Unallocated,
        zero: extent.kind == ExtentKind::Zero,
        data: matches!(
            extent.kind,
            ExtentKind::Data { .. } | ExtentKind::Compressed
        ),
        offset: host_offset,
    };
    if preallocated && let ExtentKind::Data { host_offset } = extent.kind {
        let part = node
            .image()
            .data_storage()
            .extent(host_offset, status.len)
            .await;
        status.len = status.len.min(part.len);
        status.zero = !part.data;
    }
    Ok(status)
}
