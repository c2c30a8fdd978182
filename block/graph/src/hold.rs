//! Holds: who does what to a layer, so that nobody else begins something that does not go together
//! with it.

use std::{
    cell::{Cell, RefCell},
    fmt,
    rc::Rc,
};

use super::{GuestDisk, Node};

/// What a layer is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A block job of this type, as QEMU names it.
    Job(&'static str),
    /// A new overlay.
    Snapshot,
    /// Another size.
    Resize,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Job(kind) => write!(f, "block job: {kind}"),
            Self::Snapshot => f.write_str("snapshot"),
            Self::Resize => f.write_str("resize"),
        }
    }
}

/// A layer is held for something else, in QEMU's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("Node '{node}' is busy: block device is in use by {purpose}")]
pub struct Busy {
    /// The layer: by its disk's id if it is the top, otherwise by its node name.
    node: String,
    purpose: Purpose,
}

/// A layer's place for who holds it.
#[derive(Default)]
pub(super) struct Slot(Cell<Option<Purpose>>);

/// Keeps layers from others until it is dropped, with the work that it was taken for.
pub struct Hold {
    layers: RefCell<Vec<Rc<Node>>>,
    purpose: Purpose,
}

impl Hold {
    /// Takes `layers` of `disk`, all of them or none.
    ///
    /// # Errors
    /// The first that is held already, and for what.
    pub fn take(
        disk: &GuestDisk,
        layers: impl IntoIterator<Item = Rc<Node>>,
        purpose: Purpose,
    ) -> Result<Self, Busy> {
        let layers: Vec<_> = layers.into_iter().collect();
        layers
            .iter()
            .try_for_each(|layer| check_free(disk, layer))?;
        let hold = Self {
            layers: RefCell::default(),
            purpose,
        };
        layers.into_iter().for_each(|layer| hold.add(layer));
        Ok(hold)
    }

    /// Holds a layer that has just been made, too.
    pub fn add(&self, layer: Rc<Node>) {
        let before = layer.hold_slot().0.replace(Some(self.purpose));
        assert!(before.is_none(), "nobody knows of the layer yet");
        self.layers.borrow_mut().push(layer);
    }

    /// Whether this is what holds `layer`.
    pub fn covers(&self, layer: &Rc<Node>) -> bool {
        let layers = self.layers.borrow();
        layers.iter().any(|held| Rc::ptr_eq(held, layer))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        for layer in self.layers.get_mut() {
            layer.hold_slot().0.set(None);
        }
    }
}

/// Refuses a layer of `disk` that is held.
///
/// # Errors
/// It is; for what.
pub fn check_free(disk: &GuestDisk, layer: &Rc<Node>) -> Result<(), Busy> {
    let Some(purpose) = layer.hold_slot().0.get() else {
        return Ok(());
    };
    let id = &disk.options().id;
    let is_top = Rc::ptr_eq(layer, &disk.root()) && !id.is_empty();
    let node = if is_top { id } else { layer.name() }.to_owned();
    Err(Busy { node, purpose })
}

#[cfg(test)]
mod tests;
