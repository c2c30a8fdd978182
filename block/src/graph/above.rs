//! What several layers of a chain hold together: what a commit copies down, and what a rebase has
//! to look at.

use std::rc::Rc;

use super::Node;
use crate::{
    error::IoResult,
    extent::{Extent, ExtentKind},
};

impl Node {
    /// What this layer and those below it, down to but without `base`, hold of a range: of all of
    /// them if `base` is `None`. [`ExtentKind::Unallocated`] if none of them says anything.
    ///
    /// # Errors
    /// As [`Node::extent`].
    pub async fn extent_above(
        self: &Rc<Self>,
        base: Option<&Rc<Node>>,
        offset: u64,
        mut len: u64,
    ) -> IoResult<Extent> {
        let is_base = |node: &Rc<Node>| base.is_some_and(|base| Rc::ptr_eq(base, node));
        for node in self.chain().take_while(|node| !is_base(node)) {
            let extent = node.extent(offset, len).await?;
            if extent.kind != ExtentKind::Unallocated {
                return Ok(extent);
            }
            len = extent.len;
        }
        let kind = ExtentKind::Unallocated;
        Ok(Extent { len, kind })
    }
}
