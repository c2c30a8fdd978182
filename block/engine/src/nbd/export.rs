//! An export: a disk under the name by which clients ask for it.

use strata_format::bitmap::Held;
use strata_graph::disk::Disk;
use strata_storage::nbd::wire::proto::Transmission;

use super::{context::Context, request::Limits};

/// A disk that clients may attach. One more front end on the disk, beside the devices.
pub struct Export {
    /// What clients ask for. May be empty: the default export.
    pub name: String,
    /// For people who list the exports.
    pub description: Option<String>,
    /// The disk: made by [`Disk::by_bytes`] where its backend takes that, as most clients like it.
    pub disk: Disk,
    /// Clients may write, unless the disk itself is read-only.
    pub writable: bool,
    /// Dirty bitmaps that clients may read: at most [`MAX_BITMAPS`].
    pub bitmaps: Vec<Held>,
}

/// Bitmaps of one export at most: bounds what an answer to BLOCK_STATUS can take.
pub const MAX_BITMAPS: usize = 64;

impl Export {
    /// Whether writes are refused.
    pub(super) fn read_only(&self) -> bool {
        !self.writable || self.disk.info().read_only
    }

    /// The metadata contexts that clients may select.
    pub(super) fn contexts(&self) -> Vec<Context> {
        let bitmaps = (0..self.bitmaps.len()).map(Context::Bitmap);
        [Context::Allocation, Context::Depth]
            .into_iter()
            .chain(bitmaps)
            .collect()
    }

    /// The name of one of [`Export::contexts`].
    pub(super) fn context_name(&self, context: Context) -> String {
        match context {
            Context::Allocation => "base:allocation".to_owned(),
            Context::Depth => "qemu:allocation-depth".to_owned(),
            Context::Bitmap(index) => {
                format!("qemu:dirty-bitmap:{}", self.bitmaps[index].bitmap().name())
            }
        }
    }

    /// What requests are checked against now.
    pub(super) fn limits(&self, structured: bool, contexts: bool) -> Limits {
        let info = self.disk.info();
        Limits {
            size: info.size,
            block: u64::from(self.disk.block_size()),
            read_only: self.read_only(),
            structured,
            contexts,
        }
    }

    /// Transmission flags. Every client's requests meet in the disk, so that a flush covers the
    /// writes that were completed for others: CAN_MULTI_CONN.
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
