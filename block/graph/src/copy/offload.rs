//! Copies that the host makes from file to file (copy_file_range), which may cost no I/O at all.

use strata_storage::{Storage, error::IoResult};

use super::{Copy, Kind, Piece};
use crate::Reading;

/// Where the bytes of a piece lie as they are.
pub struct Place {
    pub file: Storage,
    /// Bytes.
    pub offset: u64,
    /// Keeps it there.
    pub _reading: Option<Reading>,
}

impl Copy {
    /// Where the host can copy a piece from; `None` if it cannot, or is not to.
    pub(super) async fn place(&self, piece: &Piece) -> Option<Place> {
        if !self.offload.get() || piece.kind != Kind::Data {
            return None;
        }
        self.plan.place(piece.offset, piece.len).await
    }

    /// Has the host copy a piece; whether it did. The first one that it cannot copy is the last one
    /// that it is asked for.
    pub(super) async fn offload(&self, piece: &Piece, place: &Place) -> IoResult<bool> {
        let target = &self.target;
        let copied = target.copy_from(piece.offset, &place.file, place.offset, piece.len);
        let copied = copied.await?;
        if !copied {
            self.offload.set(false);
        }
        Ok(copied)
    }
}
