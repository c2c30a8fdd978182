//! [`Mirror`]: what a guest changes on a disk reaches a layer further down, too.
//!
//! While a job copies a disk's top down into its base, the guest goes on. At first the mirror only
//! notes what the guest has changed, and the job copies that once more. A guest that writes faster
//! than the job copies would never let it end: so from [`Mirror::write_through`] on a change is
//! made in both layers before it completes. What is dirty only gets less then.
//!
//! # The order of entries
//! Changes of both layers enter the mirror's own table first, and so does what the job copies
//! meanwhile: of two that overlap one comes second in both layers. Then each layer is entered and
//! left by itself, the upper one first.

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    rc::Rc,
};

use strata_exec::mem::{SgList, to_usize};
use strata_format::{bitmap::Bits, extent::ExtentKind};
use strata_storage::error::{IoError, IoResult};

use super::{
    Node,
    inflight::{InFlight, InFlightGuard, Mode},
};

/// log2 of the bytes that are dirty or clean together.
const GRAIN_BITS: u32 = 16;

/// Bytes of a sector: no two changes are made in one at a time.
const SECTOR: u64 = 512;

/// Bytes that are zeroed in one go: a raw layer may have to write them.
const ZERO_PIECE: u64 = 16 << 20;

/// Why a copy failed: while it was doing what, `read` or `write`.
pub type CopyError = (&'static str, IoError);

/// Two layers of a chain: the upper one is a disk's top, the lower one is to get what it shows.
pub struct Mirror {
    top: Rc<Node>,
    base: Rc<Node>,
    dirty: RefCell<Bits>,
    through: Cell<bool>,
    changes: InFlight,
}

impl Mirror {
    /// A mirror of `top`, a disk's, in `base`, a layer below it that takes writes and is no
    /// shorter. Nothing is dirty.
    pub fn new(top: Rc<Node>, base: Rc<Node>) -> Rc<Self> {
        let grains = top.size().div_ceil(1 << GRAIN_BITS);
        Rc::new(Self {
            top,
            base,
            dirty: RefCell::new(Bits::new(grains)),
            through: Cell::new(false),
            changes: InFlight::default(),
        })
    }

    /// From now on changes are made in both layers. Those that have begun before are noted when
    /// they end: the caller waits for them.
    pub fn write_through(&self) {
        self.through.set(true);
    }

    /// Whether changes are made in both layers.
    pub fn is_through(&self) -> bool {
        self.through.get()
    }

    /// The layer that gets what the disk's top shows.
    pub(crate) fn base(&self) -> &Rc<Node> {
        &self.base
    }

    /// Notes that the layers may differ in the range. Bytes.
    pub fn mark(&self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        let grains = offset >> GRAIN_BITS..end.div_ceil(1 << GRAIN_BITS);
        self.dirty.borrow_mut().set(grains);
    }

    /// Bytes in which the layers may differ.
    pub fn dirty_bytes(&self) -> u64 {
        let bytes = self.dirty.borrow().count() << GRAIN_BITS;
        bytes.min(self.top.size())
    }

    /// What is dirty now, which is clean from now on: the caller copies it, or marks it again.
    /// Ranges of bytes, in order.
    pub fn take_dirty(&self) -> Vec<Range<u64>> {
        let grains = self.dirty.borrow().total();
        let bits = self.dirty.replace(Bits::new(grains));
        let (mut ranges, mut at) = (Vec::new(), 0);
        while at < grains {
            let (end, is_dirty) = bits.run_at(at);
            let end = end.unwrap_or(grains);
            if is_dirty {
                let bytes = at << GRAIN_BITS..end << GRAIN_BITS;
                ranges.push(bytes.start..bytes.end.min(self.top.size()));
            }
            at = end;
        }
        ranges
    }

    /// Waits until nobody changes both layers in the range, and keeps others from it. Bytes.
    pub(crate) async fn enter(&self, offset: u64, len: u64) -> IoResult<InFlightGuard> {
        let start = offset - offset % SECTOR;
        let end = offset.checked_add(len).ok_or(IoError::OutOfRange)?;
        let end = end
            .checked_next_multiple_of(SECTOR)
            .ok_or(IoError::OutOfRange)?;
        Ok(self.changes.enter(start..end, Mode::Exclusive).await)
    }

    /// Copies what the top shows in the range into the base, with the help of `buffer`; returns how
    /// many bytes were copied, but for zeros. Bytes; in whole sectors.
    ///
    /// # Errors
    /// An I/O error, and in which direction. The layers may differ in the range then: the caller
    /// marks it.
    pub async fn copy(&self, range: Range<u64>, buffer: &SgList) -> Result<u64, CopyError> {
        let entered = self.enter(range.start, range.end - range.start).await;
        let _entered = entered.map_err(|error| ("read", error))?;
        self.copy_entered(range, buffer).await
    }

    /// As [`Mirror::copy`], for who has entered the range.
    pub(crate) async fn copy_entered(
        &self,
        range: Range<u64>,
        buffer: &SgList,
    ) -> Result<u64, CopyError> {
        let (mut at, mut copied) = (range.start, 0);
        while at < range.end {
            let walk = self.top.walk().above(Some(&self.base));
            let found = walk.find(at, range.end - at).await;
            let found = found.map_err(|error| ("read", error))?;
            let (kind, len) = (found.kind, found.len);
            // Nothing above the base is held while it is written.
            drop(found);
            at += match kind {
                ExtentKind::Unallocated => len,
                ExtentKind::Zero => self.zero(at, len.min(ZERO_PIECE)).await?,
                ExtentKind::Data { .. } | ExtentKind::Compressed => {
                    let len = len.min(buffer.len() as u64);
                    copied += self.copy_data(at, buffer.slice(0, to_usize(len))).await?;
                    len
                }
            };
        }
        Ok(copied)
    }

    async fn zero(&self, at: u64, len: u64) -> Result<u64, CopyError> {
        let zeroed = self.base.write_zeroes(at, len, true).await;
        zeroed.map_err(|error| ("write", error))?;
        Ok(len)
    }

    /// Bytes that were copied: none of zeros, which are what a discard leaves in formats that can
    /// only punch holes.
    async fn copy_data(&self, at: u64, data: SgList) -> Result<u64, CopyError> {
        let len = data.len() as u64;
        let read = self.top.read(at, data.clone()).await;
        read.map_err(|error| ("read", error))?;
        if data.is_zero() {
            self.zero(at, len).await?;
            return Ok(0);
        }
        let written = self.base.write(at, data).await;
        written.map_err(|error| ("write", error))?;
        Ok(len)
    }
}

#[cfg(test)]
mod tests;
