//! The names of disks and layers, which share one space: a command that takes either must mean one
//! thing, whoever else is being named meanwhile.
//!
//! Jobs, exports, TLS credentials and a layer's bitmaps have spaces of their own: each keeps its
//! list, and looks and enters in one step.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
};

/// Bytes in a node name at most.
const LONGEST: usize = 31;

/// What has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Disk,
    Layer,
}

/// Why a name cannot be had, in QEMU's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// QEMU's rule for node names, which its clients rely on.
    #[error("Invalid node-name: '{0}'")]
    Malformed(String),
    /// Another disk has it.
    #[error("Device with id '{0}' already exists")]
    DiskExists(String),
    /// A layer has what was to be a disk's id.
    #[error("Device name '{0}' conflicts with an existing node name")]
    DiskLikeLayer(String),
    /// A disk has what was to be a layer's name.
    #[error("node-name={0} is conflicting with a device id")]
    LayerLikeDisk(String),
    /// Another layer has it.
    #[error("the node name '{0}' is another layer's")]
    LayerExists(String),
}

/// Every name that is in use or reserved.
#[derive(Default)]
pub struct Names {
    taken: RefCell<BTreeMap<String, Kind>>,
    made_up: Cell<u32>,
}

/// A name, kept from others until it is dropped: with what has it, or with the command that
/// reserved it and came to nothing.
pub struct Name {
    text: String,
    names: Rc<Names>,
}

impl Names {
    /// Takes a disk's id. A disk without one is not found by its name, so that there may be many.
    ///
    /// # Errors
    /// It is taken.
    pub fn disk(self: &Rc<Self>, id: &str) -> Result<Option<Name>, NameError> {
        if id.is_empty() {
            return Ok(None);
        }
        match self.taken(id) {
            Some(Kind::Disk) => Err(NameError::DiskExists(id.to_owned())),
            Some(Kind::Layer) => Err(NameError::DiskLikeLayer(id.to_owned())),
            None => Ok(Some(self.take(id, Kind::Disk))),
        }
    }

    /// Takes a layer's name that somebody has chosen.
    ///
    /// # Errors
    /// It is taken, or not a name.
    pub fn layer(self: &Rc<Self>, name: &str) -> Result<Name, NameError> {
        if !is_well_formed(name) || name.len() > LONGEST {
            return Err(NameError::Malformed(name.to_owned()));
        }
        match self.taken(name) {
            Some(Kind::Disk) => Err(NameError::LayerLikeDisk(name.to_owned())),
            Some(Kind::Layer) => Err(NameError::LayerExists(name.to_owned())),
            None => Ok(self.take(name, Kind::Layer)),
        }
    }

    /// A layer's name as QEMU makes them up, which its users' scripts filter out.
    pub fn made_up(self: &Rc<Self>) -> Name {
        loop {
            let number = self.made_up.get();
            self.made_up.set(number + 1);
            let name = format!("#block{}", 100 + number);
            if self.taken(&name).is_none() {
                return self.take(&name, Kind::Layer);
            }
        }
    }

    fn taken(&self, name: &str) -> Option<Kind> {
        self.taken.borrow().get(name).copied()
    }

    fn take(self: &Rc<Self>, text: &str, kind: Kind) -> Name {
        self.taken.borrow_mut().insert(text.to_owned(), kind);
        Name {
            text: text.to_owned(),
            names: self.clone(),
        }
    }
}

impl Name {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        self.names.taken.borrow_mut().remove(&self.text);
    }
}

/// A letter, then letters, digits, `-`, `.` and `_`.
pub fn is_well_formed(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
}
