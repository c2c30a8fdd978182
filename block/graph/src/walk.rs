//! Which layer of a chain holds what a range shows: the one way down for everyone who asks.

use std::rc::Rc;

use strata_exec::yield_now;
use strata_format::extent::{Extent, ExtentKind};
use strata_storage::error::IoResult;

use super::{
    Format, Node,
    index::{self, Answer},
    reading::Reading,
};

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

    /// Counts a look at a layer, and lets others by if it is time for that.
    pub(super) async fn look(&mut self) {
        self.looks += 1;
        self.spend(LOOK).await;
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
        let (mut next, mut depth) = (self.top.clone(), 0);
        // From here on down to a layer that takes writes the index does not help.
        let mut one_by_one = false;
        while let Some(node) = next
            && !self.is_base(&node)
        {
            one_by_one &= !node.is_writable();
            if !one_by_one && !node.is_writable() {
                match self.find_indexed(turn, &node, offset, len).await? {
                    Indexed::Found(mut found) => {
                        found.depth += depth;
                        return Ok(found);
                    }
                    Indexed::Nothing(passed) => {
                        one_by_one = passed.found_more;
                        depth += passed.layers;
                        len = passed.len;
                        next = passed.next;
                        continue;
                    }
                    Indexed::Ask => one_by_one = true,
                }
            }
            let (extent, reading) = self.ask(turn, &node, depth == 0, offset, len).await?;
            depth += 1;
            len = extent.len;
            if extent.kind != ExtentKind::Unallocated {
                return Ok(Found {
                    len,
                    kind: extent.kind,
                    depth,
                    reading,
                    layer: Some(node),
                });
            }
            next = node.backing();
        }
        Ok(Found::nothing(len))
    }

    fn is_base(&self, node: &Rc<Node>) -> bool {
        self.base.is_some_and(|base| Rc::ptr_eq(base, node))
    }

    /// What one layer says, and what keeps that true if it holds anything.
    async fn ask(
        &self,
        turn: &mut Turn,
        node: &Rc<Node>,
        is_top: bool,
        offset: u64,
        len: u64,
    ) -> IoResult<(Extent, Option<Reading>)> {
        turn.look().await;
        let held = self.top_is_held && is_top;
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
        let reading = match extent.kind {
            ExtentKind::Unallocated => None,
            // What was looked up is true yet: there was no await since.
            _ => entered.or_else(|| (!held).then(|| node.counted())),
        };
        Ok((extent, reading))
    }

    /// What the index knows of the layers from `top` down, which takes no writes, or finds out.
    async fn find_indexed(
        &self,
        turn: &mut Turn,
        top: &Rc<Node>,
        offset: u64,
        len: u64,
    ) -> IoResult<Indexed> {
        let mut is_long = false;
        loop {
            match index::look_up(top, self.base, offset, len) {
                Answer::Ask => return Ok(Indexed::Ask),
                Answer::Nothing { len, layers, next } => {
                    return Ok(Indexed::Nothing(Passed {
                        len,
                        layers,
                        next,
                        found_more: false,
                    }));
                }
                Answer::Held {
                    len,
                    kind,
                    layer,
                    below,
                } => {
                    // Nobody writes to the layer while it has readers: no await since.
                    let reading = layer.counted();
                    let mut extent = Extent { len, kind };
                    if !self.holes_are_data && layer.format() == Format::Raw {
                        extent = layer.look(offset, len, false).await?;
                    }
                    return Ok(Indexed::Found(Found {
                        len: extent.len,
                        kind: extent.kind,
                        depth: below + 1,
                        reading: Some(reading),
                        layer: Some(layer),
                    }));
                }
                Answer::Unknown { is_new, window } => {
                    // One look at each layer may do for more than many pages could say.
                    if is_new && len > window && !is_long {
                        is_long = true;
                        let pass = self.pass_empty(turn, top, offset, len);
                        let passed = Box::pin(pass).await?;
                        if passed.len >= window {
                            return Ok(Indexed::Nothing(passed));
                        }
                    }
                    if top.is_writable() || !Box::pin(index::fill(top, offset, turn)).await {
                        return Ok(Indexed::Ask);
                    }
                }
            }
        }
    }

    /// Passes the layers from `top` down that take no writes and hold nothing.
    async fn pass_empty(
        &self,
        turn: &mut Turn,
        top: &Rc<Node>,
        offset: u64,
        mut len: u64,
    ) -> IoResult<Passed> {
        let (mut next, mut layers, mut found_more) = (Some(top.clone()), 0, false);
        while let Some(node) = next.clone()
            && !self.is_base(&node)
            && !node.is_writable()
        {
            turn.look().await;
            let extent = node.look(offset, len, self.holes_are_data).await?;
            len = extent.len;
            if extent.kind != ExtentKind::Unallocated {
                found_more = true;
                break;
            }
            layers += 1;
            next = node.backing();
        }
        Ok(Passed {
            len,
            layers,
            next,
            found_more,
        })
    }
}

/// What the index says of layers that take no writes.
enum Indexed {
    Found(Found),
    Nothing(Passed),
    /// The first of them has to be asked.
    Ask,
}

/// Layers that hold nothing.
struct Passed {
    len: u64,
    layers: u32,
    next: Option<Rc<Node>>,
    /// The next one holds something.
    found_more: bool,
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
    fn nothing(len: u64) -> Self {
        Self {
            len,
            kind: ExtentKind::Unallocated,
            layer: None,
            depth: 0,
            reading: None,
        }
    }

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
