//! Holds: who does what to a layer, so that nobody else begins something that does not go together
//! with it.
//!
//! A layer is held either to be changed, by one holder alone, or to be kept as it is, by as many as
//! want that. What changes a layer's place, its file or who may write to it changes the layer, and
//! so does what closes it.

use std::{cell::RefCell, fmt, rc::Rc};

use super::{GuestDisk, Node};

/// What a layer is held for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// A block job.
    Job {
        /// Its type, as QEMU names it.
        kind: &'static str,
        /// Its id, unless it is called as its disk is.
        id: Option<String>,
    },
    /// A new overlay.
    Snapshot,
    /// Another size.
    Resize,
    /// Another name of what lies below, in its header.
    Header,
    /// Its end.
    Close,
    /// The export with this id.
    Export(String),
}

impl Purpose {
    /// A job of type `kind` called `id`, on `disk`.
    pub fn job(kind: &'static str, id: &str, disk: &GuestDisk) -> Self {
        let id = (id != disk.options().id).then(|| id.to_owned());
        Self::Job { kind, id }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Job { kind, id } => {
                write!(f, "block device is in use by block job: {kind}")?;
                id.as_ref().map_or(Ok(()), |id| write!(f, " '{id}'"))
            }
            Self::Snapshot => f.write_str("block device is in use by snapshot"),
            Self::Header => f.write_str("block device is in use by change-backing-file"),
            Self::Close => f.write_str("block device is being closed"),
            Self::Resize => f.write_str("block device is in use by resize"),
            Self::Export(id) => {
                write!(f, "it is exported as '{id}': delete that export first")
            }
        }
    }
}

/// A layer is held for something else, in QEMU's words where it has such.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Node '{node}' is busy: {purpose}")]
pub struct Busy {
    /// The layer: by its disk's id if it is the top, otherwise by its node name.
    node: String,
    purpose: Purpose,
}

impl Busy {
    /// For a layer of `disk`.
    pub fn new(disk: &GuestDisk, layer: &Rc<Node>, purpose: Purpose) -> Self {
        let node = called(disk, layer);
        Self { node, purpose }
    }
}

/// What a holder needs of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// That nobody else has it.
    Change,
    /// That it stays where it is, open, and shows the same bytes.
    Keep,
}

struct Holder {
    /// The hold's, and no other's.
    purpose: Rc<Purpose>,
    need: Need,
}

/// A layer's place for who holds it.
#[derive(Default)]
pub(super) struct Slot(RefCell<Vec<Holder>>);

impl Slot {
    /// What the layer is held for that does not go together with `need`.
    fn obstacle(&self, need: Need) -> Option<Purpose> {
        let holders = self.0.borrow();
        let found = holders
            .iter()
            .find(|holder| need == Need::Change || holder.need == Need::Change);
        found.map(|holder| Purpose::clone(&holder.purpose))
    }
}

/// Keeps layers from others until it is dropped, with the work that it was taken for.
pub struct Hold {
    layers: RefCell<Vec<(Rc<Node>, Need)>>,
    purpose: Rc<Purpose>,
}

impl Hold {
    /// Takes `layers` of `disk` to change or to close them, all of them or none.
    ///
    /// # Errors
    /// The first that is held already, and for what.
    pub fn take(
        disk: &GuestDisk,
        layers: impl IntoIterator<Item = Rc<Node>>,
        purpose: Purpose,
    ) -> Result<Self, Busy> {
        Self::new(purpose).and(disk, layers, Need::Change)
    }

    /// Takes `layers` of `disk`, all of them or none, so that they are kept as they are.
    ///
    /// # Errors
    /// The first that is being changed, and for what.
    pub fn keep(
        disk: &GuestDisk,
        layers: impl IntoIterator<Item = Rc<Node>>,
        purpose: Purpose,
    ) -> Result<Self, Busy> {
        Self::new(purpose).and_keep(disk, layers)
    }

    /// As well as the rest, takes `layers` so that they are kept as they are.
    ///
    /// # Errors
    /// As [`Hold::keep`]; nothing is held then.
    pub fn and_keep(
        self,
        disk: &GuestDisk,
        layers: impl IntoIterator<Item = Rc<Node>>,
    ) -> Result<Self, Busy> {
        self.and(disk, layers, Need::Keep)
    }

    fn new(purpose: Purpose) -> Self {
        Self {
            layers: RefCell::default(),
            purpose: Rc::new(purpose),
        }
    }

    fn and(
        self,
        disk: &GuestDisk,
        layers: impl IntoIterator<Item = Rc<Node>>,
        need: Need,
    ) -> Result<Self, Busy> {
        for layer in layers {
            if let Some(purpose) = layer.hold_slot().obstacle(need) {
                return Err(Busy::new(disk, &layer, purpose));
            }
            self.enter(layer, need);
        }
        Ok(self)
    }

    /// Holds a layer that has just been made, too, to change it.
    pub fn add(&self, layer: Rc<Node>) {
        let before = layer.hold_slot().obstacle(Need::Change);
        assert!(before.is_none(), "nobody knows of the layer yet");
        self.enter(layer, Need::Change);
    }

    fn enter(&self, layer: Rc<Node>, need: Need) {
        let purpose = self.purpose.clone();
        let holder = Holder { purpose, need };
        layer.hold_slot().0.borrow_mut().push(holder);
        self.layers.borrow_mut().push((layer, need));
    }

    /// Whether this holds `layer`.
    pub(crate) fn covers(&self, layer: &Rc<Node>) -> bool {
        let layers = self.layers.borrow();
        layers.iter().any(|(held, _)| Rc::ptr_eq(held, layer))
    }

    /// Whether this holds `layer` to change it.
    pub(super) fn may_change(&self, layer: &Rc<Node>) -> bool {
        let layers = self.layers.borrow();
        let is_it =
            |(held, need): &(Rc<Node>, Need)| Rc::ptr_eq(held, layer) && *need == Need::Change;
        layers.iter().any(is_it)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let others = |holder: &Holder| !Rc::ptr_eq(&holder.purpose, &self.purpose);
        for (layer, _) in self.layers.borrow().iter() {
            layer.hold_slot().0.borrow_mut().retain(others);
        }
    }
}

/// How messages call a layer of `disk`.
fn called(disk: &GuestDisk, layer: &Rc<Node>) -> String {
    let id = &disk.options().id;
    let is_top = Rc::ptr_eq(layer, &disk.root()) && !id.is_empty();
    if is_top { id } else { layer.name() }.to_owned()
}

#[cfg(test)]
mod tests;
