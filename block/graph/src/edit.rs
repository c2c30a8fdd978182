//! Changes of the graph, as values: what is to lie on what, checked as a whole and applied at once.
//!
//! An edit may have parts for several disks. Either all of them are applied or none is, and between
//! them nothing else runs: the disks are drained, and applying does no I/O.

use std::{collections::HashMap, rc::Rc};

use strata_storage::Identity;

use super::{GuestDisk, Node, chain::MAX_LAYERS, hold::Hold, inflight::Drained};

/// What is to change.
enum Change {
    /// The node becomes the top of the disk, above the one that is it now.
    Overlay(Rc<Node>),
    /// The first node lies on the second from now on, or on nothing.
    Backing(Rc<Node>, Option<Rc<Node>>),
    /// The node, which lies below the top, becomes the top of the disk.
    Pivot(Rc<Node>),
}

/// A change of one disk, and what holds the layers that it concerns.
struct Part<'a> {
    disk: Rc<GuestDisk>,
    /// The top when the part was made. A change further down is still right under another one.
    root: Rc<Node>,
    change: Change,
    hold: &'a Hold,
}

/// Why an edit cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// A layer would lie below itself.
    #[error("Making '{below}' a backing child of '{upper}' would create a cycle")]
    Cycle {
        /// The layer above.
        upper: String,
        /// The layer below.
        below: String,
    },
    /// The chain would be longer than one may be.
    #[error("Disk '{0}' has {MAX_LAYERS} layers: merge some of them first")]
    TooManyLayers(String),
    /// What becomes the top has to be as large as its disk.
    #[error("What is to be the top shows {top} bytes, the disk has {disk}")]
    Sizes {
        /// Bytes.
        top: u64,
        /// Bytes.
        disk: u64,
    },
    /// Two layers would be in one file, and one of them writes it.
    #[error("Node '{0}' would write a file that another layer uses")]
    TwoWriters(String),
    /// The disk does not look as it did when the edit was made, or is not held for it.
    #[error("Node '{0}' is not held for this change")]
    NotHeld(String),
}

/// Changes that belong together, one for a disk at most.
#[derive(Default)]
pub struct Edit<'a> {
    parts: Vec<Part<'a>>,
}

impl<'a> Edit<'a> {
    /// As well as the rest, puts `overlay` on top of `disk`, whose top is read-only then. Both are
    /// under `hold`.
    pub fn overlay(self, disk: &Rc<GuestDisk>, overlay: &Rc<Node>, hold: &'a Hold) -> Self {
        self.and(disk, Change::Overlay(overlay.clone()), hold)
    }

    /// As well as the rest, puts `upper`, a layer of `disk`, on `below`. What was between them
    /// goes.
    pub fn backing(
        self,
        disk: &Rc<GuestDisk>,
        upper: &Rc<Node>,
        below: Option<&Rc<Node>>,
        hold: &'a Hold,
    ) -> Self {
        self.and(disk, Change::Backing(upper.clone(), below.cloned()), hold)
    }

    /// As well as the rest, makes `base`, a layer of `disk`, its top. What was above it goes.
    pub fn pivot(self, disk: &Rc<GuestDisk>, base: &Rc<Node>, hold: &'a Hold) -> Self {
        self.and(disk, Change::Pivot(base.clone()), hold)
    }

    fn and(mut self, disk: &Rc<GuestDisk>, change: Change, hold: &'a Hold) -> Self {
        self.parts.push(Part {
            disk: disk.clone(),
            root: disk.root(),
            change,
            hold,
        });
        self
    }

    /// Whether it could be applied now.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), EditError> {
        let mut seen = Seen::default();
        for part in &self.parts {
            part.check_held()?;
            part.check_sizes()?;
            seen.enter(part)?;
        }
        Ok(())
    }

    /// Closes the disks and waits until no request is under way in them.
    pub async fn drain(&self) -> DrainedEdit<'_> {
        self.drain_with(&[]).await
    }

    /// As [`Edit::drain`], and brings other disks to rest with them, until the edit is applied.
    pub async fn drain_with<'b>(&'b self, others: &'b [Rc<GuestDisk>]) -> DrainedEdit<'b> {
        let own = self.parts.iter().map(|part| &part.disk);
        let mut disks: Vec<_> = own.chain(others).collect();
        // One order for all who close several, so that no two wait for each other.
        disks.sort_by_key(|disk| Rc::as_ptr(disk));
        disks.dedup_by(|one, other| Rc::ptr_eq(one, other));
        let mut drained = Vec::new();
        for disk in disks {
            drained.push(disk.gate().drain().await);
        }
        DrainedEdit {
            edit: self,
            _drained: drained,
        }
    }
}

/// An edit whose disks are at rest. They go on when it is dropped.
pub struct DrainedEdit<'a> {
    edit: &'a Edit<'a>,
    _drained: Vec<Drained<'a>>,
}

impl DrainedEdit<'_> {
    /// Makes all changes, and returns the layers that the disks do not need any more.
    ///
    /// # Errors
    /// Why it cannot be; nothing has changed then.
    pub fn apply(self) -> Result<Vec<Rc<Node>>, EditError> {
        self.edit.check()?;
        let parts = &self.edit.parts;
        Ok(parts.iter().flat_map(Part::apply).collect())
    }
}

impl Part<'_> {
    /// The chain as it will be, from the top down; endless where there is a cycle.
    fn chain(&self) -> impl Iterator<Item = Rc<Node>> {
        let top = match &self.change {
            Change::Overlay(overlay) => overlay.clone(),
            Change::Backing(..) => self.disk.root(),
            Change::Pivot(base) => base.clone(),
        };
        std::iter::successors(Some(top), |node| self.below(node))
    }

    fn below(&self, node: &Rc<Node>) -> Option<Rc<Node>> {
        match &self.change {
            Change::Overlay(overlay) if Rc::ptr_eq(overlay, node) => Some(self.root.clone()),
            Change::Backing(upper, below) if Rc::ptr_eq(upper, node) => below.clone(),
            _ => node.backing(),
        }
    }

    /// Whether the layer will take writes.
    fn will_write(&self, node: &Rc<Node>) -> bool {
        let covered = matches!(self.change, Change::Overlay(_)) && Rc::ptr_eq(node, &self.root);
        node.is_writable() && !covered
    }

    /// Refuses an edit of what is not as it was when the edit was made, or is not held for it: what
    /// is changed, and what goes, is held to be changed, and what something lies on then is kept.
    fn check_held(&self) -> Result<(), EditError> {
        let not_held = |node: &Rc<Node>| Err(EditError::NotHeld(node.name().to_owned()));
        let root = self.disk.root();
        let has = |wanted| root.chain().any(|node| Rc::ptr_eq(&node, wanted));
        let (mut changed, kept) = match &self.change {
            Change::Overlay(overlay) => (vec![overlay.clone(), self.root.clone()], None),
            Change::Backing(upper, _) if !has(upper) => return not_held(upper),
            Change::Backing(upper, below) => (vec![upper.clone()], below.as_ref()),
            Change::Pivot(base) if !has(base) => return not_held(base),
            Change::Pivot(base) => (vec![base.clone()], None),
        };
        let below_top = match &self.change {
            Change::Backing(upper, _) => !Rc::ptr_eq(upper, &self.root),
            Change::Overlay(_) | Change::Pivot(_) => false,
        };
        if !below_top && !Rc::ptr_eq(&self.root, &root) {
            return not_held(&self.root);
        }
        changed.extend(self.gone());
        let kept = kept.filter(|node| !self.hold.covers(node));
        let mut changed = changed.iter().filter(|node| !self.hold.may_change(node));
        kept.or_else(|| changed.next()).map_or(Ok(()), not_held)
    }

    /// The layers that the disk will not need any more.
    fn gone(&self) -> Vec<Rc<Node>> {
        let (upper, below) = match &self.change {
            Change::Overlay(_) => return Vec::new(),
            Change::Pivot(base) => return self.root.chain_above(Some(base)).collect(),
            Change::Backing(upper, below) => (upper, below),
        };
        let stay: Vec<_> = below.iter().flat_map(Node::chain).collect();
        let stays = |node: &Rc<Node>| stay.iter().any(|other| Rc::ptr_eq(node, other));
        upper.chain().skip(1).filter(|node| !stays(node)).collect()
    }

    fn check_sizes(&self) -> Result<(), EditError> {
        match &self.change {
            Change::Overlay(top) | Change::Pivot(top) if top.size() != self.root.size() => {
                Err(EditError::Sizes {
                    top: top.size(),
                    disk: self.root.size(),
                })
            }
            _ => Ok(()),
        }
    }

    fn apply(&self) -> Vec<Rc<Node>> {
        let gone = self.gone();
        match &self.change {
            Change::Overlay(overlay) => {
                self.root.set_read_only();
                overlay.set_backing_node(Some(self.root.clone()));
                self.disk.set_root(overlay.clone());
            }
            Change::Backing(upper, below) => upper.set_backing_node(below.clone()),
            Change::Pivot(base) => self.disk.set_root(base.clone()),
        }
        gone
    }
}

/// The layers of all disks that an edit changes, as they will be: by file, whether one writes it.
#[derive(Default)]
struct Seen(HashMap<Identity, bool>);

impl Seen {
    fn enter(&mut self, part: &Part<'_>) -> Result<(), EditError> {
        let mut chain: Vec<Rc<Node>> = Vec::new();
        for node in part.chain() {
            if chain.iter().any(|above| Rc::ptr_eq(above, &node)) {
                return Err(EditError::Cycle {
                    upper: chain.last().unwrap_or(&node).name().to_owned(),
                    below: node.name().to_owned(),
                });
            }
            if chain.len() == MAX_LAYERS {
                let id = part.disk.options().id.clone();
                return Err(EditError::TooManyLayers(id));
            }
            self.enter_file(&node, part.will_write(&node))?;
            chain.push(node);
        }
        Ok(())
    }

    fn enter_file(&mut self, node: &Rc<Node>, writes: bool) -> Result<(), EditError> {
        let Ok(file) = node.image().storage().identity() else {
            return Ok(());
        };
        match self.0.insert(file, writes) {
            Some(written) if written || writes => {
                Err(EditError::TwoWriters(node.name().to_owned()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
