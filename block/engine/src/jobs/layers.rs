//! What jobs do with layers before and after they copy.

use std::{cell::RefCell, rc::Rc};

use strata_format::backing::Backing;
use strata_graph::{EditError, Node, commit::grow};
use strata_storage::error::{Error, Result};

/// Makes `base` writable, and as large as `top`, what it is to show.
///
/// # Errors
/// As [`Node::prepare_writing`] and [`grow`].
pub(super) async fn prepare_base(base: &Rc<Node>, top: &Node) -> Result<()> {
    base.prepare_writing().await?;
    if base.size() < top.size() {
        // Nobody reads it while its tables move.
        let _held = base.enter_whole().await?;
        grow(base, top.size()).await?;
    }
    Ok(())
}

/// Makes a layer read-only again that was made writable for a job.
pub(super) async fn finish_writing(node: &Rc<Node>) {
    // It is right as it is, and nobody writes to it.
    if let Err(error) = node.finish_writing().await {
        tracing::warn!(%error, "a layer stays open for writing below the top");
    }
}

/// Closes layers that have left a chain, since they were `merged` or `committed`.
pub(super) async fn close(layers: impl IntoIterator<Item = Rc<Node>>, how: &str) {
    for layer in layers {
        // The disk does not need the layer any more, whatever closing it says.
        if let Err(error) = layer.image().close().await {
            tracing::warn!(%error, "a layer that was {how} did not close cleanly");
        }
    }
}

/// What a header has named as the layer below before a job changed that.
#[derive(Default)]
pub(crate) struct NamedBefore(RefCell<Option<Option<Backing>>>);

impl NamedBefore {
    /// Has the header of `node` name `backing`.
    ///
    /// # Errors
    /// As [`Image::write_backing_name`](strata_graph::Image::write_backing_name).
    pub(super) async fn replace(&self, node: &Node, backing: Option<Backing>) -> Result<()> {
        let before = node.image().backing_name();
        node.image().write_backing_name(backing).await?;
        self.0.replace(Some(before));
        Ok(())
    }

    /// Has it name again what it did before, if that has been changed.
    ///
    /// # Errors
    /// As [`NamedBefore::replace`].
    pub(super) async fn restore(&self, node: &Node) -> Result<()> {
        let before = self.0.take();
        match before {
            Some(before) => node.image().write_backing_name(before).await,
            None => Ok(()),
        }
    }
}

/// Why the graph cannot follow, of a job that changes what lies below `node`.
pub(super) fn refused(node: &Node, error: EditError) -> Error {
    Error::Image {
        file: node.path().to_owned(),
        why: error.to_string(),
    }
}
