//! Room in a file: what reads as zeroes, holes, room that is reserved, and bytes that the host
//! copies itself.

use std::{fs::File, ops::Range, os::unix::fs::FileExt, sync::Arc};

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};

use super::FileStorage;
use crate::{
    before_end, direct,
    error::{IoError, IoResult},
    ranges, ring,
};

impl FileStorage {
    pub(crate) async fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> IoResult<()> {
        let failed = |error| self.error("write zeroes", offset, error);
        self.check_writable()?;
        let end = offset.checked_add(len).ok_or(IoError::OutOfRange)?;
        let inside = before_end(offset, len, self.len());
        let (file, grow) = (self.file(), end > self.len());
        let mode = ranges::zeroing(unmap);
        let by_ring =
            !inside.is_empty() && self.allocated_by_ring(&file, mode, inside.clone()).await;
        if by_ring && !grow {
            return Ok(());
        }
        let _turn = self.turn_through_page_cache().await;
        let work = move || {
            if !by_ring {
                ranges::zero(&file, inside.start, inside.end - inside.start, unmap)?;
            }
            // Not by setting the length: others may have written behind the range meanwhile, and
            // their bytes would be cut off.
            if grow {
                file.write_all_at(&[0], end - 1)
            } else {
                Ok(())
            }
        };
        self.helpers.run(work).await.map_err(failed)?;
        self.grown_to(end);
        Ok(())
    }

    pub(crate) async fn punch_hole(&self, offset: u64, len: u64) -> IoResult<()> {
        self.check_writable()?;
        let (file, inside) = (self.file(), before_end(offset, len, self.len()));
        if inside.is_empty() {
            return Ok(());
        }
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if self.allocated_by_ring(&file, mode, inside.clone()).await {
            return Ok(());
        }
        let work = move || fallocate(&*file, mode, inside.start, inside.end - inside.start);
        match self.helpers.run(work).await {
            // A device frees whole sectors of its own only.
            Err(Errno::INVAL) if self.is_device => Ok(()),
            Err(error) if error != Errno::OPNOTSUPP => {
                Err(self.error("punch a hole", offset, error.into()))
            }
            _ => Ok(()),
        }
    }

    /// For calls that may write through the page cache; `None` where a ring is not at work past it.
    pub(super) async fn turn_through_page_cache(&self) -> Option<direct::Turn<'_>> {
        let is_mixed = self.options.direct && self.ring.is_some();
        if is_mixed {
            Some(self.turns.through_page_cache().await)
        } else {
            None
        }
    }

    /// Whether the ring could do it; if not, another try says why.
    async fn allocated_by_ring(
        &self,
        file: &Arc<File>,
        mode: FallocateFlags,
        range: Range<u64>,
    ) -> bool {
        let Some(ring) = &self.ring else { return false };
        ring::allocate(ring, file, mode, range)
            .await
            .unwrap_or(false)
    }

    pub(crate) async fn copy_from(
        &self,
        offset: u64,
        source: &Self,
        from: u64,
        len: u64,
    ) -> IoResult<bool> {
        self.check_writable()?;
        let end = offset.checked_add(len).ok_or(IoError::OutOfRange)?;
        let (file, source) = (self.file(), source.file());
        let _turn = self.turn_through_page_cache().await;
        let work = move || ranges::copy(&source, from, &file, offset, len);
        let copied = self.helpers.run(work).await;
        let copied = copied.map_err(|error| self.error("copy", offset, error))?;
        if copied {
            self.grown_to(end);
        }
        Ok(copied)
    }

    pub(crate) async fn reserve(&self, offset: u64, len: u64) -> IoResult<()> {
        if len == 0 {
            return Ok(());
        }
        let file = self.file();
        let work = move || fallocate(&*file, FallocateFlags::empty(), offset, len);
        let result = self.helpers.run(work).await;
        let end = offset.checked_add(len).ok_or(IoError::OutOfRange)?;
        self.len.set(self.len.get().max(end));
        result.map_err(|error| self.error("reserve room", offset, error.into()))
    }
}
