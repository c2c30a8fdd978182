//! What is done about a guest's requests that fail: `rerror` and `werror`.

use strata_storage::error::IoError;

use crate::{ErrorAction, disk::Op};

/// What is done about an error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnRequestError {
    /// The error is reported to the guest.
    #[default]
    Report,
    /// The request is completed as if it had succeeded.
    Ignore,
    /// The guest is stopped where there is no room; other errors are reported to it.
    Enospc,
    /// The guest is stopped.
    Stop,
}

/// What is done about errors of a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ErrorPolicy {
    /// `rerror`: about reads.
    pub on_read: OnRequestError,
    /// `werror`: about everything else, flushes included.
    pub on_write: OnRequestError,
}

impl ErrorPolicy {
    /// What QEMU does where nothing is said: the error is reported, but where there is no room for
    /// what it writes it waits.
    pub const QEMU: Self = Self {
        on_read: OnRequestError::Report,
        on_write: OnRequestError::Enospc,
    };

    fn of(self, op: Op) -> OnRequestError {
        match op {
            Op::Read => self.on_read,
            Op::Write { .. } | Op::Flush | Op::Discard | Op::WriteZeroes { .. } => self.on_write,
        }
    }

    /// What comes of `error`, which a request of this kind met.
    pub(super) fn action(self, op: Op, error: &IoError) -> ErrorAction {
        match self.of(op) {
            OnRequestError::Report => ErrorAction::Report,
            OnRequestError::Ignore => ErrorAction::Ignore,
            OnRequestError::Stop => ErrorAction::Stop,
            OnRequestError::Enospc => match error {
                IoError::NoSpace { .. } => ErrorAction::Stop,
                _ => ErrorAction::Report,
            },
        }
    }

    /// Whether a request that is held goes on by itself when there is room.
    pub(super) fn waits_for_room(self, op: Op, error: &IoError) -> bool {
        self.of(op) == OnRequestError::Enospc && matches!(error, IoError::NoSpace { .. })
    }
}
