//! Which layer of a chain holds what a range shows: the one way down for everyone who asks.

use std::rc::Rc;

use strata_exec::yield_now;
use strata_format::extent::{Extent, ExtentKind};
use strata_storage::error::IoResult;

use super::{Node, reading::Reading};

/// Bytes that a task may fill before others get their turn.
const TURN: usize = 1 << 20;

/// What a look at a layer's tables costs, in bytes that could be filled meanwhile.
const LOOK: usize = 4096;

/// What a task may do before others get their turn: fill so many bytes, or look as often as that
/// takes.
pub(super) struct Turn {
    left: usize,
    looks: usize,
}

impl Default for Turn {
    fn default() -> Self {
        Self {
            left: TURN,
            looks: 0,
        }
    }
}

impl Turn {
    /// Looks at layers so far.
    pub fn looks(&self) -> usize {
        self.looks
    }

    /// Lets others by if filling `bytes` is more than is left.
    pub(super) async fn spend(&mut self, bytes: usize) {
        if self.left < bytes {
            yield_now().await;
            self.left = TURN;
        }
        self.left -= bytes.min(self.left);
    }
}

/// A chain of layers, or the upper part of one, in which ranges are looked for.
#[derive(Clone)]
pub struct Walk<'a> {
    top: Option<Rc<Node>>,
    base: Option<&'a Rc<Node>>,
    /// The caller holds the range in the top layer.
    top_is_held: bool,
    /// Raw files are one piece of data: the host is not asked for their holes.
    holes_are_data: bool,
}

/// What a chain shows in a range.
pub struct Found {
    /// Bytes of one kind; at least 1.
    pub len: u64,
    /// What they are: [`ExtentKind::Unallocated`] if no layer says anything.
    pub kind: ExtentKind,
    /// The layer that says so, if one does.
    pub layer: Option<Rc<Node>>,
    /// Which one that is: 1 is the top, 0 none.
    pub depth: u32,
    /// Keeps that true.
    pub reading: Option<Reading>,
}

impl<'a> Walk<'a> {
    /// All layers from `top` down.
    pub fn from(top: Option<Rc<Node>>) -> Self {
        Self {
            top,
            base: None,
            top_is_held: false,
            holes_are_data: false,
        }
    }

    /// Without `base` and what lies below it.
    #[must_use]
    pub fn above(self, base: Option<&'a Rc<Node>>) -> Self {
        Self { base, ..self }
    }

    /// For a caller who holds the ranges in the top layer that it asks for.
    #[must_use]
    pub(super) fn with_top_held(self) -> Self {
        Self {
            top_is_held: true,
            ..self
        }
    }

    /// For reading, which finds holes in raw files soon enough.
    #[must_use]
    pub(super) fn with_holes_as_data(self) -> Self {
        Self {
            holes_are_data: true,
            ..self
        }
    }

    /// What the layers show from `offset` on, for up to `len` bytes (at least 1).
    ///
    /// # Errors
    /// An I/O error on a layer's tables, or that they are corrupt.
    pub async fn find(&self, offset: u64, len: u64) -> IoResult<Found> {
        self.find_in(&mut Turn::default(), offset, len).await
    }

    /// As [`Walk::find`], as a part of what a task does in one turn.
    pub(super) async fn find_in(
        &self,
        turn: &mut Turn,
        offset: u64,
        mut len: u64,
    ) -> IoResult<Found> {
        let is_base = |node: &Rc<Node>| self.base.is_some_and(|base| Rc::ptr_eq(base, node));
        let (mut next, mut depth) = (self.top.clone(), 0);
        while let Some(node) = next
            && !is_base(&node)
        {
            depth += 1;
            turn.looks += 1;
            turn.spend(LOOK).await;
            let held = self.top_is_held && depth == 1;
            let (entered, extent) = loop {
                let entered = if !held && node.is_writable() {
                    Some(node.reading(offset, len).await?)
                } else {
                    None
                };
                let extent = node.look(offset, len, self.holes_are_data).await?;
                // It may have become writable since.
                if held || entered.is_some() || !node.is_writable() {
                    break (entered, extent);
                }
            };
            assert!(
                (1..=len).contains(&extent.len),
                "an extent lies within what was asked for"
            );
            len = extent.len;
            if extent.kind != ExtentKind::Unallocated {
                return Ok(Found {
                    len,
                    kind: extent.kind,
                    depth,
                    // What was looked up is true yet: there was no await since.
                    reading: entered.or_else(|| (!held).then(|| node.counted())),
                    layer: Some(node),
                });
            }
            next = node.backing();
        }
        Ok(Found {
            len,
            kind: ExtentKind::Unallocated,
            layer: None,
            depth: 0,
            reading: None,
        })
    }
}

impl Node {
    /// Looks for ranges from this layer down.
    pub fn walk(self: &Rc<Self>) -> Walk<'static> {
        Walk::from(Some(self.clone()))
    }

    /// Looks for ranges in what lies below this layer.
    pub fn walk_below(&self) -> Walk<'static> {
        Walk::from(self.backing())
    }
}

impl Found {
    /// Without what keeps it true.
    pub fn extent(&self) -> Extent {
        let Self { len, kind, .. } = *self;
        Extent { len, kind }
    }

    /// Whether it reads as zeros as far as tables say, where nothing lies below.
    pub fn is_zero(&self) -> bool {
        matches!(self.kind, ExtentKind::Zero | ExtentKind::Unallocated)
    }
}
