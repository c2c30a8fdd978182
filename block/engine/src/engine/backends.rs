//! The guest's requests as a whole: whether they rest, and what becomes of those that are held.

use std::rc::Rc;

use strata_graph::{Backend, disk::Disk};

use super::{Engine, refused};
use crate::api::CmdError;

/// What becomes of requests that have failed, or fail, while the guest comes to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedRequests {
    /// They are held as their disks' policies want, and tried again when the guest goes on.
    Held,
    /// They end: the guest that has sent them will not go on.
    Ended,
}

impl Engine {
    /// The guest comes to rest: it sends no more, and what is under way ends or is held; what is
    /// throttled goes on at once. See [`Engine::rests`].
    pub fn begin_to_rest(&self, failed: FailedRequests) {
        for backend in self.backends.borrow().iter() {
            backend.hold_failures(failed == FailedRequests::Held);
            backend.let_through(true);
        }
    }

    /// The guest goes on, or another one begins.
    pub fn end_rest(&self) {
        for backend in self.backends.borrow().iter() {
            backend.hold_failures(true);
            backend.let_through(false);
        }
    }

    /// Gives the disk called `drive`, by its id or the node name of its top layer, to the device at
    /// `path` as its drive.
    ///
    /// # Errors
    /// There is no such disk, or it is another device's.
    pub fn give_to_device(&self, drive: &str, path: &str) -> Result<Disk, CmdError> {
        let disk = self.find_disk(drive).ok_or_else(|| {
            refused(format!(
                "Property 'virtio-blk-device.drive' can't find value '{drive}'"
            ))
        })?;
        let backends = self.backends.borrow();
        let free = |backend: &&Rc<Backend>| backend.has(&disk) && backend.device().is_empty();
        let backend = backends.iter().find(free).ok_or_else(|| {
            refused(format!(
                "Property 'virtio-blk-device.drive' can't take value '{drive}', it's in use"
            ))
        })?;
        backend.set_device(path);
        Ok(Disk::new(backend.clone()))
    }

    /// The device at `path` has gone: its drive may be another one's.
    pub fn take_from_device(&self, path: &str) {
        let backends = self.backends.borrow();
        let its = backends.iter().filter(|backend| backend.device() == path);
        its.for_each(|backend| backend.set_device(""));
    }

    /// Tries again what has failed and is held.
    pub fn retry(&self) {
        self.backends
            .borrow()
            .iter()
            .for_each(|backend| backend.retry());
    }

    /// Tries again what failed only because there was no room; errors that come once more are not
    /// reported once more.
    pub fn retry_for_room(&self) {
        self.backends
            .borrow()
            .iter()
            .for_each(|backend| backend.retry_for_room());
    }

    /// Whether no request of the guest's is under way but those that are held.
    pub fn rests(&self) -> bool {
        let rests = |backend: &Backend| backend.held() == backend.under_way();
        self.backends.borrow().iter().all(|backend| rests(backend))
    }

    /// Whether requests of the guest's are under way or held.
    pub fn has_requests(&self) -> bool {
        self.any_backend(|backend| backend.under_way() > 0)
    }

    /// Whether requests of the guest's have failed and wait for another try.
    pub fn holds_requests(&self) -> bool {
        self.any_backend(|backend| backend.held() > 0)
    }

    /// Whether some of those wait for room alone: [`Engine::retry_for_room`] may help.
    pub fn waits_for_room(&self) -> bool {
        self.any_backend(Backend::waits_for_room)
    }

    pub(super) fn any_backend(&self, has: impl Fn(&Backend) -> bool) -> bool {
        self.backends.borrow().iter().any(|backend| has(backend))
    }
}
