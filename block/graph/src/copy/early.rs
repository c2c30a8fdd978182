//! Having the host bring to disk what has been written, while more is being copied: a flush at the
//! end has little left to do then.

use std::{cell::Cell, rc::Rc};

use strata_exec::{Executor, Queue, TaskGroup};
use strata_storage::Storage;

/// Bytes after which the host is asked again.
const PORTION: u64 = 4 << 20;

/// What has been written to a file, and whether the host is being asked to bring it to disk.
pub struct EarlyWriteBack {
    file: Storage,
    /// Bytes written since the host was last asked.
    written: Cell<u64>,
    /// The one task that asks.
    asking: TaskGroup,
}

impl EarlyWriteBack {
    /// Nothing has been written to `file` yet.
    pub fn new(exec: &Rc<Executor>, file: Storage) -> Self {
        Self {
            file,
            written: Cell::new(0),
            asking: TaskGroup::new(exec, Queue::Guest, "a copy's early write-back"),
        }
    }

    /// Notes that so many bytes have been written. Waits for nothing.
    pub fn wrote(&self, bytes: u64) {
        let written = self.written.get() + bytes;
        self.written.set(written);
        if written < PORTION || !self.asking.is_empty() {
            return;
        }
        self.written.set(0);
        let file = self.file.clone();
        self.asking
            .spawn(async move { file.start_write_back().await });
    }

    /// Waits until the host is not being asked any more.
    pub async fn end(&self) {
        self.asking.drain().await;
    }
}

#[cfg(test)]
mod tests;
