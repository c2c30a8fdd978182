//! Commands about dirty bitmaps.

use std::rc::Rc;

use strata_format::bitmap::DirtyBitmap;
use strata_graph::{
    Node,
    bitmaps::{self, BitmapPlan, BitmapUndo, InLayer, check_consistent, check_unused},
};

use super::{Engine, ReplyTo, refused};
use crate::api::{
    BitmapChange, BitmapInfo, BitmapRef, BlockDirtyBitmap, BlockDirtyBitmapAdd,
    BlockDirtyBitmapMerge, CmdError, Reply,
};

type Outcome<T> = Result<T, CmdError>;

/// What all commands about bitmaps come to.
pub(super) struct BitmapCmd {
    /// The disk, or the node name of a layer.
    node: String,
    /// The bitmap.
    name: String,
    /// What becomes of it.
    change: BitmapChange,
}

impl BitmapCmd {
    pub(super) fn new(bitmap: BlockDirtyBitmap, change: BitmapChange) -> Self {
        let BlockDirtyBitmap { node, name } = bitmap;
        Self { node, name, change }
    }

    /// The disk, or the node name of a layer.
    pub(super) fn node(&self) -> &str {
        &self.node
    }
}

impl From<BlockDirtyBitmapAdd> for BitmapCmd {
    fn from(cmd: BlockDirtyBitmapAdd) -> Self {
        Self {
            node: cmd.node,
            name: cmd.name,
            change: BitmapChange::Add {
                granularity: cmd.granularity,
                persistent: cmd.persistent.unwrap_or(false),
                disabled: cmd.disabled.unwrap_or(false),
            },
        }
    }
}

impl From<BlockDirtyBitmapMerge> for BitmapCmd {
    fn from(cmd: BlockDirtyBitmapMerge) -> Self {
        Self {
            node: cmd.node,
            name: cmd.target,
            change: BitmapChange::Merge(cmd.bitmaps),
        }
    }
}

impl Engine {
    /// Carries out a command about bitmaps.
    pub(super) fn bitmap(self: &Rc<Self>, name: &'static str, cmd: BitmapCmd, reply: ReplyTo) {
        self.spawn(name, reply, async move |engine| {
            engine.bitmap_command(&cmd).await.map(|()| Reply::Done)
        });
    }

    async fn bitmap_command(&self, cmd: &BitmapCmd) -> Outcome<()> {
        let Some((disk, _)) = self.find_layer(&cmd.node) else {
            return Err(no_node(cmd));
        };
        // Not while a snapshot stores the bitmaps of its old top.
        let _pass = disk.gate().enter().await;
        // Nor is the chain edited while it is held.
        let find = |name: &str| self.find_layer(name).map(|(_, layer)| layer);
        self.change_bitmap(cmd, find, false).await.map(drop)
    }

    /// Makes a change; returns what would take it back, if that is wanted. The chain is not edited
    /// meanwhile. `find` knows what layers are called.
    pub(super) async fn change_bitmap(
        &self,
        cmd: &BitmapCmd,
        find: impl Fn(&str) -> Option<Rc<Node>>,
        may_be_undone: bool,
    ) -> Outcome<Option<(Rc<Node>, BitmapUndo)>> {
        let layer = find(&cmd.node).ok_or_else(|| no_node(cmd))?;
        let change = find_sources(&find, &layer, &cmd.change)?;
        let plan = BitmapPlan::new(&layer, &cmd.node, &cmd.name, change).map_err(refused)?;
        let announced = plan.announce().await;
        announced.map_err(|error| refused(error.to_string()))?;
        let change = find_sources(&find, &layer, &cmd.change)?;
        let plan = plan.check_again(&cmd.name, change).map_err(refused)?;
        let undo = may_be_undone.then(|| plan.undo());
        plan.carry_out();
        Ok(undo.map(|undo| (layer, undo)))
    }
}

/// The change, with the layers that a command names.
fn find_sources(
    find: impl Fn(&str) -> Option<Rc<Node>>,
    layer: &Rc<Node>,
    change: &BitmapChange,
) -> Outcome<bitmaps::BitmapChange> {
    Ok(match change {
        &BitmapChange::Add {
            granularity,
            persistent,
            disabled,
        } => bitmaps::BitmapChange::Add {
            granularity,
            persistent,
            disabled,
        },
        BitmapChange::Remove => bitmaps::BitmapChange::Remove,
        BitmapChange::Clear => bitmaps::BitmapChange::Clear,
        &BitmapChange::Record(on) => bitmaps::BitmapChange::Record(on),
        BitmapChange::Merge(sources) => {
            let find = |source: &BitmapRef| find_source(&find, layer, source);
            let sources = sources.iter().map(find);
            bitmaps::BitmapChange::Merge(sources.collect::<Outcome<_>>()?)
        }
    })
}

/// A bitmap that is named beside one of `layer`.
fn find_source(
    find: impl Fn(&str) -> Option<Rc<Node>>,
    layer: &Rc<Node>,
    source: &BitmapRef,
) -> Outcome<InLayer> {
    let layer = match &source.node {
        None => layer.clone(),
        Some(node) => {
            let missing = || refused(format!("Node '{node}' not found"));
            find(node).ok_or_else(missing)?
        }
    };
    Ok((layer, source.name.clone()))
}

fn no_node(cmd: &BitmapCmd) -> CmdError {
    let node = &cmd.node;
    refused(match cmd.change {
        BitmapChange::Add { .. } => format!("Cannot find device='{node}' nor node-name='{node}'"),
        _ => format!("Node '{node}' not found"),
    })
}

/// The bitmap that an export of `disk` means, in the layer that it names or the topmost that has
/// it.
pub(super) fn find_for_export(
    engine: &Engine,
    top: &Rc<Node>,
    wanted: &BitmapRef,
    writable: bool,
) -> Outcome<Rc<DirtyBitmap>> {
    let name = &wanted.name;
    let missing = || refused(format!("Bitmap '{name}' is not found"));
    let layer = match &wanted.node {
        Some(node) => {
            let layer = engine.find_layer(node).map(|(_, layer)| layer);
            layer.ok_or_else(|| refused(format!("Node '{node}' not found")))?
        }
        None => {
            let found = top.chain().find(|node| node.bitmaps().find(name).is_some());
            found.ok_or_else(missing)?
        }
    };
    let bitmap = layer.bitmaps().find(name).ok_or_else(missing)?;
    check_unused(&bitmap).map_err(refused)?;
    check_consistent(&bitmap).map_err(refused)?;
    if !writable && layer.is_writable() && bitmap.is_recording() {
        return Err(refused(format!(
            "Enabled bitmap '{name}' incompatible with readonly export"
        )));
    }
    Ok(bitmap)
}

/// `dirty-bitmaps` of a layer, the youngest first.
pub(super) fn describe(node: &Node) -> Vec<BitmapInfo> {
    let describe = |bitmap: &Rc<DirtyBitmap>| BitmapInfo {
        name: bitmap.name().to_owned(),
        recording: bitmap.is_recording(),
        persistent: bitmap.is_persistent(),
        inconsistent: bitmap.is_inconsistent(),
        busy: bitmap.is_busy(),
        granularity: bitmap.granularity(),
        count: bitmap.count(),
    };
    let bitmaps = node.bitmaps().list();
    bitmaps.iter().rev().map(describe).collect()
}
