//! A chain as a whole: what each layer holds, what of that the disk shows, and what it would free.
//! For `x-strata-query-chain`, `strata ctl chain` and `strata-img chain`.

mod draw;

use std::rc::Rc;

use serde::{Deserialize, Serialize};
use strata_exec::yield_now;
use strata_format::extent::ExtentKind;
use strata_graph::Node;
use strata_storage::error::IoResult;

pub use draw::{columns, draw, wants_colour};

/// One look at a layer passes so many bytes at most.
const LOOK: u64 = 256 << 20;

/// Parts of a disk that are told apart, if nobody says how many.
pub const PARTS: u16 = 256;

/// The layers of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ChainInfo {
    /// The disk's id; none of an image at rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Bytes that the disk has.
    pub virtual_size: u64,
    /// Bytes of the disk that one number in the maps stands for; the last may stand for fewer.
    pub part_size: u64,
    /// From the top down.
    pub layers: Vec<ChainLayer>,
}

/// One layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ChainLayer {
    /// The image's file name.
    pub filename: String,
    /// The node's name; none of an image at rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Format.
    pub format: String,
    /// Bytes that the file takes on the host's disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_size: Option<u64>,
    /// Bytes of the disk for which the layer holds data.
    pub data: u64,
    /// How many of them the disk shows: no layer above hides them, and nothing else has them.
    pub shown: u64,
    /// Bytes that the host's disk would get back if the layer were merged into its neighbour and
    /// its file deleted: what the file takes, without what would have to be copied. Not of the top.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frees: Option<u64>,
    /// `data` by parts of the disk.
    pub data_map: Vec<u64>,
    /// `shown` by parts of the disk.
    pub shown_map: Vec<u64>,
}

impl ChainInfo {
    /// Looks at all layers from `top` down, in `parts` parts (at least 1).
    ///
    /// # Errors
    /// An I/O error on a layer's tables, or that they are corrupt.
    pub async fn look(top: &Rc<Node>, parts: u16) -> IoResult<Self> {
        let size = top.size();
        let part_size = size.div_ceil(parts.max(1).into()).max(1);
        let mut layers = Vec::new();
        for node in top.chain() {
            layers.push(look_at_layer(&node, size, part_size).await?);
        }
        let mut at = 0;
        while at < size {
            let found = top.walk().find(at, LOOK.min(size - at)).await?;
            let layer = usize::try_from(found.depth).unwrap_or(0).checked_sub(1);
            if let Some(layer) = layer.and_then(|layer| layers.get_mut(layer))
                && is_data(found.kind)
            {
                add(&mut layer.shown_map, part_size, at, found.len);
                layer.shown += found.len;
            }
            at += found.len;
            yield_now().await;
        }
        for layer in layers.iter_mut().skip(1) {
            layer.frees = layer.disk_size.map(|size| size.saturating_sub(layer.shown));
        }
        Ok(Self {
            device: None,
            virtual_size: size,
            part_size,
            layers,
        })
    }
}

async fn look_at_layer(node: &Node, size: u64, part_size: u64) -> IoResult<ChainLayer> {
    let parts = usize::try_from(size.div_ceil(part_size)).unwrap_or(0);
    let mut layer = ChainLayer {
        filename: node.path().display().to_string(),
        node_name: None,
        format: node.format().name().to_owned(),
        disk_size: node.image().storage().allocated_bytes(),
        data: 0,
        shown: 0,
        frees: None,
        data_map: vec![0; parts],
        shown_map: vec![0; parts],
    };
    let mut at = 0;
    while at < size {
        let extent = node.extent(at, LOOK.min(size - at)).await?;
        if is_data(extent.kind) {
            add(&mut layer.data_map, part_size, at, extent.len);
            layer.data += extent.len;
        }
        at += extent.len;
        yield_now().await;
    }
    Ok(layer)
}

fn is_data(kind: ExtentKind) -> bool {
    match kind {
        ExtentKind::Data { .. } | ExtentKind::Compressed => true,
        ExtentKind::Zero | ExtentKind::Unallocated => false,
    }
}

/// Adds `len` bytes from `at` on to the parts that they lie in.
fn add(map: &mut [u64], part_size: u64, mut at: u64, mut len: u64) {
    while len > 0 {
        let here = len.min(part_size - at % part_size);
        let part = usize::try_from(at / part_size).ok();
        if let Some(part) = part.and_then(|part| map.get_mut(part)) {
            *part += here;
        }
        (at, len) = (at + here, len - here);
    }
}

#[cfg(test)]
mod tests;
