//! [`Below`]: what a layer reads where it holds nothing itself.

use strata_exec::{LocalBoxFuture, mem::SgList};
use strata_storage::error::IoResult;

/// What lies below a layer: the backing chain, with zeros past its end.
pub trait Below {
    /// Fills `data` with what is visible below at `offset` of the disk.
    fn read_below(&self, offset: u64, data: SgList) -> LocalBoxFuture<'_, IoResult<()>>;

    /// Whether nothing lies below: what this layer does not hold reads as zeros.
    fn is_empty(&self) -> bool {
        false
    }

    /// Bytes from the start of the disk behind which everything below reads as zeros.
    fn visible_len(&self) -> u64 {
        if self.is_empty() { 0 } else { u64::MAX }
    }
}

/// Below the lowest layer: nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Nothing;

impl Below for Nothing {
    fn read_below(&self, _offset: u64, data: SgList) -> LocalBoxFuture<'_, IoResult<()>> {
        data.fill(0, data.len(), 0);
        Box::pin(std::future::ready(Ok(())))
    }

    fn is_empty(&self) -> bool {
        true
    }
}
