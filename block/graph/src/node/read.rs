//! Reading: from the layer that holds the bytes, and what lies below a layer.

use strata_exec::{LocalBoxFuture, mem::SgList};
use strata_format::{below::Below, extent::ExtentKind};
use strata_storage::error::{IoError, IoResult};

use super::Node;
use crate::walk::{Turn, Walk};

/// Bytes that one look at the layers is for, at most.
const MAX_PIECE: usize = 1 << 20;

impl Below for Node {
    fn read_below(&self, offset: u64, data: SgList) -> LocalBoxFuture<'_, IoResult<()>> {
        Box::pin(self.read_backing(offset, data))
    }

    fn is_empty(&self) -> bool {
        self.backing.borrow().is_none()
    }

    fn visible_len(&self) -> u64 {
        let backing = self.backing.borrow();
        backing.as_ref().map_or(0, |below| below.size())
    }
}

/// Reads what the layers of `walk` show; zeros where they say nothing.
pub(super) async fn read_chain(walk: Walk<'_>, offset: u64, data: SgList) -> IoResult<()> {
    let walk = walk.with_holes_as_data();
    let (mut done, mut turn) = (0, Turn::default());
    while done < data.len() {
        let at = offset + done as u64;
        let rest = (data.len() - done).min(MAX_PIECE) as u64;
        let found = walk.find_in(&mut turn, at, rest).await?;
        let len = usize::try_from(found.len).map_err(|_| IoError::OutOfRange)?;
        let piece = data.slice(done, len);
        match &found.layer {
            Some(layer) if found.kind != ExtentKind::Zero => {
                layer.image().read_extent(found.kind, at, piece).await?;
            }
            _ => {
                turn.spend(len).await;
                piece.fill(0, len, 0);
            }
        }
        done += len;
    }
    Ok(())
}
