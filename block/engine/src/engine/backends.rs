//! The guest's requests as a whole: whether they rest, and what becomes of those that are held.

use strata_graph::Backend;

use super::Engine;

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

    /// Tries again what has failed and is held.
    pub fn retry(&self) {
        self.backends
            .borrow()
            .iter()
            .for_each(|backend| backend.retry());
    }

    /// Tries again what failed only because there was no room; errors that come once more are not
    /// told once more.
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

    fn any_backend(&self, has: impl Fn(&Backend) -> bool) -> bool {
        self.backends.borrow().iter().any(|backend| has(backend))
    }
}
