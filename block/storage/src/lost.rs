//! [`Lost`]: a failed flush sticks to the open file.
//!
//! When bytes cannot be brought to disk, the kernel forgets them, whatever the reason was, and says
//! so once: the next fdatasync succeeds as if nothing had been. So here, and nowhere else, a flush
//! that has failed is remembered, for all who share the open file.

use std::{cell::RefCell, io, path::Path, sync::Arc};

use crate::error::{IoError, IoResult};

/// Whether writes to an open file may have been lost, and why.
#[derive(Default)]
pub(super) struct Lost(RefCell<Option<IoError>>);

impl Lost {
    /// # Errors
    /// A flush of the file has failed before.
    pub fn check(&self) -> IoResult<()> {
        self.0.borrow().clone().map_or(Ok(()), Err)
    }

    /// What a flush comes to that the host has answered with `result`. An error makes all later
    /// ones fail, and those that are under way.
    ///
    /// # Errors
    /// It has failed, or another one has.
    pub fn note(&self, file: &Path, result: io::Result<()>) -> IoResult<()> {
        if let Err(source) = result {
            self.set(file, source);
        }
        self.check()
    }

    fn set(&self, file: &Path, source: io::Error) {
        let mut lost = self.0.borrow_mut();
        if lost.is_none() {
            tracing::error!(file = %file.display(), error = %source, "what was written may be lost");
            *lost = Some(IoError::Lost {
                file: file.to_owned(),
                source: Arc::new(source),
            });
        }
    }
}

#[cfg(test)]
mod tests;
