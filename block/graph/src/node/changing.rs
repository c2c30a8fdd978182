//! Changing what a layer holds: the one way to that for all who write.

use strata_storage::error::{IoError, IoResult};

use super::Node;
use crate::index;

/// Something changes what the layer holds, until it is dropped.
pub(super) struct Changing<'a>(&'a Node);

impl Node {
    /// Begins a change of what the layer holds. Every function that makes one begins here.
    ///
    /// # Errors
    /// The layer takes no writes.
    pub(super) fn changing(&self) -> IoResult<Changing<'_>> {
        if self.is_writable() {
            Ok(Changing(self))
        } else {
            Err(IoError::ReadOnly)
        }
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        // Layers that take writes are not in the index.
        if !self.0.is_writable() {
            index::forget();
        }
    }
}
