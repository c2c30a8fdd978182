//! What jobs do with layers before and after they copy.

use std::rc::Rc;

use strata_graph::{Node, commit::grow};
use strata_storage::error::Result;

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
