//! Writing at any byte: what lies in the same sectors is read, and written again.

use std::rc::Rc;

use strata_exec::mem::{SgList, to_usize};
use strata_storage::error::{IoError, IoResult};

use super::{Node, read::read_chain};

/// Bytes of a sector: what layers are written in.
const SECTOR: u64 = 512;

impl Node {
    /// As [`Node::write`], also for data that begins or ends within a sector. The sectors are held
    /// exclusively meanwhile, so nobody else's bytes in them are lost.
    ///
    /// # Errors
    /// As [`Node::read`] and [`Node::write`].
    pub(crate) async fn write_bytes(self: &Rc<Self>, offset: u64, data: SgList) -> IoResult<()> {
        let len = data.len() as u64;
        let end = offset.checked_add(len).ok_or(IoError::OutOfRange)?;
        if len == 0 || offset.is_multiple_of(SECTOR) && end.is_multiple_of(SECTOR) {
            return self.write(offset, data).await;
        }
        Box::pin(self.write_within_sectors(offset, data)).await
    }

    async fn write_within_sectors(self: &Rc<Self>, offset: u64, data: SgList) -> IoResult<()> {
        let end = offset
            .checked_add(data.len() as u64)
            .ok_or(IoError::OutOfRange)?;
        let _changing = self.changing()?;
        let start = offset - offset % SECTOR;
        let stop = end
            .checked_next_multiple_of(SECTOR)
            .ok_or(IoError::OutOfRange)?;
        let _entry = self.enter_exclusive(start, stop - start).await?;
        let _pin = self.image.pin();
        let (mut parts, mut at) = (Vec::new(), offset);
        while at < end {
            let sector = at - at % SECTOR;
            let whole = at == sector && end - at >= SECTOR;
            let stop = if whole {
                end - end % SECTOR
            } else {
                end.min(sector + SECTOR)
            };
            let part = data.slice(to_usize(at - offset), to_usize(stop - at));
            parts.push(if whole {
                part
            } else {
                self.patched(sector, to_usize(at - sector), &part).await?
            });
            at = stop;
        }
        self.write_entered(start, SgList::concat(&parts)).await
    }

    /// What the sector at `sector` holds, with `part` in place of its bytes from `from` on.
    async fn patched(self: &Rc<Self>, sector: u64, from: usize, part: &SgList) -> IoResult<SgList> {
        let bytes = SgList::zeroed(to_usize(SECTOR));
        let walk = self.walk().with_top_held();
        read_chain(walk, sector, bytes.clone()).await?;
        bytes.copy_from(from, &part.to_vec());
        Ok(bytes)
    }
}

/// The whole sectors of a range; none if the first is not before the second.
pub(crate) fn whole_sectors(offset: u64, len: u64) -> (u64, u64) {
    let end = offset.saturating_add(len);
    let start = offset.checked_next_multiple_of(SECTOR).unwrap_or(end);
    (start, end - end % SECTOR)
}
