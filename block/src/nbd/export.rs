//! An export: a disk under the name by which clients ask for it.

use super::{proto::Transmission, request::Limits};
use crate::disk::Disk;

/// A disk that clients may attach. One more front end on the disk, beside the devices.
pub struct Export {
    /// What clients ask for. May be empty: the default export.
    pub name: String,
    /// For people who list the exports.
    pub description: Option<String>,
    /// The disk.
    pub disk: Disk,
    /// Clients may write, unless the disk itself is read-only.
    pub writable: bool,
}

impl Export {
    /// Whether writes are refused.
    pub(super) fn read_only(&self) -> bool {
        !self.writable || self.disk.info().read_only
    }

    /// What requests are checked against now.
    pub(super) fn limits(&self, structured: bool, contexts: bool) -> Limits {
        let info = self.disk.info();
        Limits {
            size: info.size,
            block: u64::from(info.block_size),
            read_only: self.read_only(),
            structured,
            contexts,
        }
    }

    /// Transmission flags. Every client's requests meet in the disk, so that a flush covers what
    /// others have been told is written: CAN_MULTI_CONN.
    pub(super) fn flags(&self, structured: bool) -> Transmission {
        let mut flags = Transmission::HAS_FLAGS
            | Transmission::SEND_FLUSH
            | Transmission::SEND_FUA
            | Transmission::SEND_CACHE
            | Transmission::CAN_MULTI_CONN;
        flags.set(Transmission::SEND_DF, structured);
        if self.read_only() {
            return flags | Transmission::READ_ONLY;
        }
        flags.set(Transmission::SEND_TRIM, self.disk.info().discard);
        flags | Transmission::SEND_WRITE_ZEROES | Transmission::SEND_FAST_ZERO
    }
}
