//! [`Reading`]: keeps what a reader has looked up in a layer true until it has read it.
//!
//! A layer that takes writes is entered in its in-flight table, and its clusters are pinned. Most
//! layers below the top are read-only: they only count their readers, so that one that becomes
//! writable can wait for the readers that have not entered it.
//!
//! # The order of entries
//! Layers are entered from the top down, and a task that holds a range of a layer never enters that
//! layer again. So it waits for layers further down only, and so does everyone whom it keeps
//! waiting: a guest's write that fills up a cluster from below, a job that holds a range of a lower
//! layer. A job that copies down has left the upper layer before it enters the lower one.

use std::{cell::Cell, rc::Rc};

use strata_exec::sync::WaitQueue;
use strata_format::qcow2::Operation;
use strata_storage::error::IoResult;

use super::{
    Node,
    inflight::{InFlightGuard, Mode},
};

/// A reader's place in a layer, until it is dropped.
pub struct Reading {
    _pin: Option<Operation>,
    _entry: Option<InFlightGuard>,
    _counted: Option<Counted>,
}

/// The readers of a layer that have not entered its in-flight table.
#[derive(Default)]
pub(super) struct Readers {
    count: Cell<usize>,
    /// Woken when the last one has left.
    left: WaitQueue,
}

impl Readers {
    fn count(self: &Rc<Self>) -> Counted {
        self.count.set(self.count.get() + 1);
        Counted(self.clone())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count.get()
    }

    /// Waits until there are none. The caller has seen to it that no more come.
    pub async fn leave(&self) {
        while self.count.get() > 0 {
            self.left.wait().await;
        }
    }
}

/// A reader that is counted.
struct Counted(Rc<Readers>);

impl Drop for Counted {
    fn drop(&mut self) {
        let count = self.0.count.get() - 1;
        self.0.count.set(count);
        if count == 0 {
            self.0.left.wake_all();
        }
    }
}

impl Node {
    /// Enters and pins a range, if the layer takes writes: what is looked up from now on stays true
    /// until the guard is dropped. Bytes.
    ///
    /// # Errors
    /// That the range wraps.
    pub(crate) async fn reading(&self, offset: u64, len: u64) -> IoResult<Reading> {
        if !self.is_writable() {
            return Ok(self.counted());
        }
        let entry = self.enter(offset, len, Mode::Shared).await?;
        Ok(Reading {
            _pin: self.image().pin(),
            _entry: Some(entry),
            _counted: None,
        })
    }

    /// The place of a reader of a layer that takes no writes.
    pub(super) fn counted(&self) -> Reading {
        Reading {
            _pin: None,
            _entry: None,
            _counted: Some(self.readers().count()),
        }
    }
}
