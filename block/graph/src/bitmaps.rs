//! Changes of a layer's dirty bitmaps, for monitors and for images at rest.

use std::rc::Rc;

use strata_format::{
    bitmap::{Bitmaps, Bits, DirtyBitmap, GRANULARITY_BITS, MAX_NAME, check_bits},
    names::Name,
};
use strata_storage::error::IoResult;

use super::{Format, Node};

/// A bitmap, by its layer and its name.
pub type InLayer = (Rc<Node>, String);

/// What is to become of a bitmap.
pub enum BitmapChange {
    /// It is made.
    Add {
        /// Bytes that share a bit; the cluster size, within limits, if `None`.
        granularity: Option<u32>,
        /// It is stored in the image.
        persistent: bool,
        /// It does not record yet.
        disabled: bool,
    },
    /// It goes.
    Remove,
    /// Nothing is dirty any more.
    Clear,
    /// Whether writes are recorded from now on.
    Record(bool),
    /// What is dirty in these is dirty in it, too.
    Merge(Vec<InLayer>),
}

/// A change, once everything about it has been checked.
pub struct BitmapPlan<'a> {
    node: &'a Node,
    /// How messages call the layer.
    place: &'a str,
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

impl<'a> BitmapPlan<'a> {
    /// Checks a change of the bitmap `name` of `node`, which messages call `place`.
    ///
    /// # Errors
    /// Why it cannot be done, in QEMU's words.
    pub fn new(
        node: &'a Node,
        place: &'a str,
        name: &str,
        change: BitmapChange,
    ) -> Result<Self, String> {
        Self::with(node, place, name, change, None)
    }

    /// Checks the change once more: others may have been faster. The name of a new bitmap is kept
    /// from them.
    ///
    /// # Errors
    /// As [`BitmapPlan::new`].
    pub fn check_again(self, name: &str, change: BitmapChange) -> Result<Self, String> {
        let reserved = match self.step {
            Step::Add(bitmap) => Some(bitmap.into_name()),
            _ => None,
        };
        Self::with(self.node, self.place, name, change, reserved)
    }

    fn with(
        node: &'a Node,
        place: &'a str,
        name: &str,
        change: BitmapChange,
        reserved: Option<Name>,
    ) -> Result<Self, String> {
        let step = match change {
            BitmapChange::Add { .. } if name.is_empty() => {
                return Err("Bitmap name cannot be empty".into());
            }
            BitmapChange::Add {
                granularity,
                persistent,
                disabled,
            } => {
                let bits = granularity_bits(node, granularity)?;
                let name = match reserved {
                    Some(name) => name,
                    None => reserve(node, name)?,
                };
                let bitmap = DirtyBitmap::new(name, bits, node.size(), persistent);
                check_new(node, place, &bitmap)?;
                bitmap.set_recording(!disabled);
                Step::Add(bitmap)
            }
            BitmapChange::Remove => Step::Remove(find(node, name, Use::Remove)?),
            BitmapChange::Clear => Step::Clear(find(node, name, Use::Change)?),
            BitmapChange::Record(on) => Step::Record(find(node, name, Use::Look)?, on),
            BitmapChange::Merge(sources) => {
                let target = find(node, name, Use::Change)?;
                let sources = sources
                    .iter()
                    .map(|(layer, name)| find(layer, name, Use::Look))
                    .collect::<Result<Vec<_>, _>>()?;
                check_sizes(&target, &sources)?;
                Step::Merge(target, sources)
            }
        };
        let stored = match &step {
            Step::Add(bitmap) => bitmap.is_persistent(),
            Step::Remove(b) | Step::Clear(b) | Step::Record(b, _) | Step::Merge(b, _) => {
                b.is_persistent() && node.is_writable()
            }
        };
        Ok(Self {
            node,
            place,
            stored,
            step,
        })
    }

    /// Has the file say that its bitmaps are in use, where the change concerns it. To be awaited
    /// before [`BitmapPlan::carry_out`].
    ///
    /// # Errors
    /// The image is read-only, has stopped, or the host's error.
    pub async fn announce(&self) -> IoResult<()> {
        if self.stored {
            self.node.image().begin_bitmap_change().await
        } else {
            Ok(())
        }
    }

    /// What takes the change back, once it has been carried out.
    pub fn undo(&self) -> BitmapUndo {
        match &self.step {
            Step::Add(bitmap) => BitmapUndo::Remove(bitmap.name().to_owned()),
            Step::Remove(bitmap) => BitmapUndo::PutBack(bitmap.clone()),
            Step::Clear(bitmap) | Step::Merge(bitmap, _) => {
                let bits = bitmap.bits().borrow().clone();
                BitmapUndo::Bits(bitmap.clone(), bits)
            }
            Step::Record(bitmap, _) => {
                let recorded = bitmap.is_recording();
                BitmapUndo::Record(bitmap.clone(), recorded)
            }
        }
    }

    /// Makes the change, in memory: what is persistent is stored when the image is closed.
    pub fn carry_out(self) {
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

/// What takes a change of a bitmap back. Nothing has been recorded since.
pub enum BitmapUndo {
    /// It was made.
    Remove(String),
    /// It went.
    PutBack(Rc<DirtyBitmap>),
    /// It had other bits.
    Bits(Rc<DirtyBitmap>, Bits),
    /// It recorded changes, or did not.
    Record(Rc<DirtyBitmap>, bool),
}

impl BitmapUndo {
    /// Does so, in the layer whose bitmaps these are.
    pub fn carry_out(self, bitmaps: &Bitmaps) {
        match self {
            Self::Remove(name) => bitmaps.remove(&name),
            Self::PutBack(bitmap) => bitmaps.put_back(bitmap),
            Self::Bits(bitmap, bits) => drop(bitmap.bits().replace(bits)),
            Self::Record(bitmap, recorded) => bitmap.set_recording(recorded),
        }
    }
}

fn check_sizes(target: &DirtyBitmap, sources: &[Rc<DirtyBitmap>]) -> Result<(), String> {
    let other = sources.iter().find(|source| source.size() != target.size());
    match other {
        None => Ok(()),
        Some(source) => Err(format!(
            "Bitmaps are of different sizes (destination size is {}, source size is {}) and can't \
             be merged",
            target.size(),
            source.size()
        )),
    }
}

/// The bitmap of that name, unless it may not be used so.
fn find(node: &Node, name: &str, use_: Use) -> Result<Rc<DirtyBitmap>, String> {
    let found = node.bitmaps().find(name);
    let bitmap = found.ok_or_else(|| format!("Dirty bitmap '{name}' not found"))?;
    check_unused(&bitmap)?;
    if use_ != Use::Look && bitmap.is_persistent() && !node.is_writable() {
        return Err(format!(
            "Bitmap '{name}' is readonly and cannot be modified"
        ));
    }
    if use_ != Use::Remove {
        check_consistent(&bitmap)?;
    }
    Ok(bitmap)
}

/// Refuses a bitmap that something holds.
pub fn check_unused(bitmap: &DirtyBitmap) -> Result<(), String> {
    if bitmap.is_busy() {
        return Err(format!(
            "Bitmap '{}' is currently in use by another operation and cannot be used",
            bitmap.name()
        ));
    }
    Ok(())
}

/// Refuses a bitmap that was not stored when it should have been.
pub fn check_consistent(bitmap: &DirtyBitmap) -> Result<(), String> {
    if bitmap.is_inconsistent() {
        return Err(format!(
            "Bitmap '{}' is inconsistent and cannot be used",
            bitmap.name()
        ));
    }
    Ok(())
}

/// Takes the name of a new bitmap.
fn reserve(node: &Node, name: &str) -> Result<Name, String> {
    if name.len() > MAX_NAME {
        return Err(format!("Bitmap name too long: {name}"));
    }
    let exists = || format!("Bitmap already exists: {name}");
    node.bitmaps().reserve(name).ok_or_else(exists)
}

/// log2 of the bytes that share a bit. What is not given is the cluster size, within QEMU's limits.
fn granularity_bits(node: &Node, granularity: Option<u32>) -> Result<u32, String> {
    let bytes = granularity.map_or_else(
        || match node.format() {
            Format::Qcow2 => node.cluster_size().clamp(4096, 65536),
            Format::Raw | Format::Qed => 65536,
        },
        u64::from,
    );
    let bits = bytes.trailing_zeros();
    if !bytes.is_power_of_two() || !GRANULARITY_BITS.contains(&bits) {
        return Err("Granularity must be power of 2 and at least 512".into());
    }
    Ok(bits)
}

/// Refuses a bitmap that the layer cannot have, or its file cannot hold.
fn check_new(node: &Node, place: &str, bitmap: &DirtyBitmap) -> Result<(), String> {
    if !bitmap.is_persistent() {
        return check_bits(bitmap.size(), bitmap.granularity_bits());
    }
    let Some(storable) = node.image().check_new_bitmap(bitmap) else {
        return Err(format!(
            "Can't store persistent bitmaps to {place}: Operation not supported"
        ));
    };
    let storable = if node.is_writable() {
        storable
    } else {
        Err("the layer is read-only".into())
    };
    storable.map_err(|why| {
        format!(
            "Can't make bitmap '{}' persistent in '{place}': {why}",
            bitmap.name()
        )
    })
}
