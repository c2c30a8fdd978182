//! Commands about dirty bitmaps.

use std::rc::Rc;

use super::{Engine, ReplyTo, refused};
use crate::{
    api::{BitmapChange, BitmapCmd, BitmapInfo, BitmapRef, CmdError, Reply},
    bitmap::{DirtyBitmap, GRANULARITY_BITS, MAX_NAME, check_bits},
    exec::Queue,
    graph::{GuestDisk, Node},
};

type Outcome<T> = Result<T, CmdError>;

/// What a command is going to do, once everything about it has been checked.
struct Plan {
    node: Rc<Node>,
    /// The file has to know before it is done.
    stored: bool,
    step: Step,
}

enum Step {
    Add(DirtyBitmap),
    Remove(Rc<DirtyBitmap>),
    Clear(Rc<DirtyBitmap>),
    Record(Rc<DirtyBitmap>, bool),
    Merge(Rc<DirtyBitmap>, Vec<Rc<DirtyBitmap>>),
}

/// What a use of a bitmap has to be refused for, besides that it is busy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// It is looked at, or only its recording changes.
    Look,
    /// Its bits change.
    Change,
    /// It goes.
    Remove,
}

impl Engine {
    /// Carries out a command about bitmaps.
    pub(super) fn bitmap(self: &Rc<Self>, cmd: BitmapCmd, reply: ReplyTo) {
        let engine = self.clone();
        self.exec.spawn(Queue::Guest, async move {
            reply(engine.bitmap_command(&cmd).await.map(|()| Reply::Done));
        });
    }

    async fn bitmap_command(&self, cmd: &BitmapCmd) -> Outcome<()> {
        let Some((disk, _)) = self.find_layer(&cmd.node) else {
            return Err(no_node(cmd));
        };
        // Not while a snapshot stores the bitmaps of its old top.
        let _pass = disk.gate().enter().await;
        let plan = self.plan(cmd)?;
        if let Some(image) = plan.node.as_qcow2().filter(|_| plan.stored) {
            let begun = image.begin_bitmap_change().await;
            begun.map_err(|error| refused(error.to_string()))?;
        }
        // Others may have been faster.
        self.plan(cmd)?.carry_out();
        Ok(())
    }

    /// The layer that a command means: a disk's top, or any by its node name.
    fn find_layer(&self, name: &str) -> Option<(Rc<GuestDisk>, Rc<Node>)> {
        if let Some(disk) = self.find_disk(name) {
            let root = disk.root();
            return Some((disk, root));
        }
        let disks = self.disks.borrow();
        disks.iter().find_map(|disk| {
            let node = disk.root().chain().find(|node| node.name() == name)?;
            Some((disk.clone(), node))
        })
    }

    fn plan(&self, cmd: &BitmapCmd) -> Outcome<Plan> {
        let BitmapCmd { node, name, change } = cmd;
        if name.is_empty() && matches!(change, BitmapChange::Add { .. }) {
            return Err(refused("Bitmap name cannot be empty"));
        }
        let (_, layer) = self.find_layer(node).ok_or_else(|| no_node(cmd))?;
        let step = match change {
            BitmapChange::Add { .. } => Step::Add(new_bitmap(&layer, cmd)?),
            BitmapChange::Remove => Step::Remove(find(&layer, name, Use::Remove)?),
            BitmapChange::Clear => Step::Clear(find(&layer, name, Use::Change)?),
            BitmapChange::Enable => Step::Record(find(&layer, name, Use::Look)?, true),
            BitmapChange::Disable => Step::Record(find(&layer, name, Use::Look)?, false),
            BitmapChange::Merge(sources) => {
                let target = find(&layer, name, Use::Change)?;
                let sources = self.sources(&layer, &target, sources)?;
                Step::Merge(target, sources)
            }
        };
        let stored = match &step {
            Step::Add(bitmap) => bitmap.is_persistent(),
            Step::Remove(b) | Step::Clear(b) | Step::Record(b, _) | Step::Merge(b, _) => {
                b.is_persistent() && layer.is_writable()
            }
        };
        let node = layer;
        Ok(Plan { node, stored, step })
    }

    fn sources(
        &self,
        layer: &Node,
        target: &DirtyBitmap,
        sources: &[BitmapRef],
    ) -> Outcome<Vec<Rc<DirtyBitmap>>> {
        let find = |source: &BitmapRef| {
            let found = match &source.node {
                None => find(layer, &source.name, Use::Look)?,
                Some(node) => {
                    let layer = self.find_layer(node);
                    let missing = || refused(format!("Node '{node}' not found"));
                    find(&layer.ok_or_else(missing)?.1, &source.name, Use::Look)?
                }
            };
            if found.size() != target.size() {
                return Err(refused(format!(
                    "Bitmaps are of different sizes (destination size is {}, source size is {}) \
                     and can't be merged",
                    target.size(),
                    found.size()
                )));
            }
            Ok(found)
        };
        sources.iter().map(find).collect()
    }
}

impl Plan {
    fn carry_out(self) {
        let bitmaps = self.node.bitmaps();
        match self.step {
            Step::Add(bitmap) => bitmaps.add(bitmap),
            Step::Remove(bitmap) => bitmaps.remove(bitmap.name()),
            Step::Clear(bitmap) => bitmap.clear(),
            Step::Record(bitmap, recording) => bitmap.set_recording(recording),
            Step::Merge(target, sources) => {
                // All of them as they are now, also if the target is one.
                sources.iter().for_each(|source| target.merge(source));
            }
        }
    }
}

fn no_node(cmd: &BitmapCmd) -> CmdError {
    let node = &cmd.node;
    refused(match cmd.change {
        BitmapChange::Add { .. } => format!("Cannot find device='{node}' nor node-name='{node}'"),
        _ => format!("Node '{node}' not found"),
    })
}

/// The bitmap of that name, unless it may not be used so.
fn find(node: &Node, name: &str, use_: Use) -> Outcome<Rc<DirtyBitmap>> {
    let found = node.bitmaps().find(name);
    let bitmap = found.ok_or_else(|| refused(format!("Dirty bitmap '{name}' not found")))?;
    check_unused(&bitmap)?;
    if use_ != Use::Look && bitmap.is_persistent() && !node.is_writable() {
        return Err(refused(format!(
            "Bitmap '{name}' is readonly and cannot be modified"
        )));
    }
    if use_ != Use::Remove {
        check_consistent(&bitmap)?;
    }
    Ok(bitmap)
}

fn check_unused(bitmap: &DirtyBitmap) -> Outcome<()> {
    if bitmap.is_busy() {
        return Err(refused(format!(
            "Bitmap '{}' is currently in use by another operation and cannot be used",
            bitmap.name()
        )));
    }
    Ok(())
}

fn check_consistent(bitmap: &DirtyBitmap) -> Outcome<()> {
    if bitmap.is_inconsistent() {
        return Err(refused(format!(
            "Bitmap '{}' is inconsistent and cannot be used",
            bitmap.name()
        )));
    }
    Ok(())
}

/// The bitmap that an export of `disk` means, in the layer that it names or the topmost that has
/// it.
pub(super) fn find_for_export(
    engine: &Engine,
    disk: &GuestDisk,
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
            let root = disk.root();
            let found = root
                .chain()
                .find(|node| node.bitmaps().find(name).is_some());
            found.ok_or_else(missing)?
        }
    };
    let bitmap = layer.bitmaps().find(name).ok_or_else(missing)?;
    check_unused(&bitmap)?;
    check_consistent(&bitmap)?;
    if !writable && layer.is_writable() && bitmap.is_recording() {
        return Err(refused(format!(
            "Enabled bitmap '{name}' incompatible with readonly export"
        )));
    }
    Ok(bitmap)
}

fn new_bitmap(node: &Node, cmd: &BitmapCmd) -> Outcome<DirtyBitmap> {
    let BitmapChange::Add {
        granularity,
        persistent,
        disabled,
    } = cmd.change
    else {
        unreachable!("called for an addition");
    };
    let bits = granularity_bits(node, granularity)?;
    let name = &cmd.name;
    if name.len() > MAX_NAME {
        return Err(refused(format!("Bitmap name too long: {name}")));
    }
    if node.bitmaps().find(name).is_some() {
        return Err(refused(format!("Bitmap already exists: {name}")));
    }
    let bitmap = DirtyBitmap::new(name.clone(), bits, node.size(), persistent);
    if persistent {
        check_storable(node, &cmd.node, &bitmap)?;
    } else {
        check_bits(node.size(), bits).map_err(refused)?;
    }
    bitmap.set_recording(!disabled);
    Ok(bitmap)
}

/// log2 of the bytes that share a bit. What is not given is the cluster size, within QEMU's limits.
fn granularity_bits(node: &Node, granularity: Option<u32>) -> Outcome<u32> {
    let bytes = granularity.map_or_else(
        || match node.as_qcow2() {
            Some(_) => node.cluster_size().clamp(4096, 65536),
            None => 65536,
        },
        u64::from,
    );
    let bits = bytes.trailing_zeros();
    if !bytes.is_power_of_two() || !GRANULARITY_BITS.contains(&bits) {
        return Err(refused("Granularity must be power of 2 and at least 512"));
    }
    Ok(bits)
}

fn check_storable(node: &Node, name: &str, bitmap: &DirtyBitmap) -> Outcome<()> {
    let Some(image) = node.as_qcow2() else {
        return Err(refused(format!(
            "Can't store persistent bitmaps to {name}: Operation not supported"
        )));
    };
    let storable = if node.is_writable() {
        image.check_new_bitmap(bitmap)
    } else {
        Err("the layer is read-only".into())
    };
    storable.map_err(|why| {
        refused(format!(
            "Can't make bitmap '{}' persistent in '{name}': {why}",
            bitmap.name()
        ))
    })
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
