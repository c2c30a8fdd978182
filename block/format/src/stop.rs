//! Rule W6: an image whose metadata could not be written is not written any more.

use std::cell::Cell;

use strata_storage::{
    Storage,
    error::{IoError, IoResult},
};

/// Whether writing an image has stopped.
#[derive(Default)]
pub(crate) struct Stop(Cell<bool>);

impl Stop {
    /// Whether it has.
    pub fn is_set(&self) -> bool {
        self.0.get()
    }

    /// Stops it: what `file` holds is no longer known for certain.
    pub fn set(&self, file: &Storage, error: &IoError) {
        if !self.0.replace(true) {
            let file = file.path().display();
            tracing::error!(%file, %error, "writing has stopped after a metadata error");
        }
    }

    /// # Errors
    /// Writing has stopped.
    pub fn check(&self, file: &Storage) -> IoResult<()> {
        if self.is_set() {
            return Err(IoError::Stopped {
                file: file.path().to_owned(),
            });
        }
        Ok(())
    }
}
