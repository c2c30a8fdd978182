//! Looking up where guest clusters are.

use std::rc::Rc;
use strata_exec::mem::to_usize;

use strata_storage::error::IoResult;

use super::{Qed, open::SLICE};
use crate::{
    extent::{Extent, ExtentKind},
    table_cache::Slice,
};

/// The L2 entry of a cluster that reads as zeros.
pub(super) const ZERO: u64 = 1;
/// Entries in a slice.
pub(super) const SLICE_ENTRIES: u64 = SLICE / 8;

/// What an L2 entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mapping {
    Unallocated,
    Zero,
    /// Offset of the cluster in the file.
    Data(u64),
}

/// Guest clusters with one mapping.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// Bytes from the offset that was asked for.
    pub len: u64,
    /// Of the first cluster; data goes on side by side.
    pub mapping: Mapping,
}

impl Qed {
    /// How the disk is stored from `offset` on, for up to `len` bytes. `len` is not 0.
    ///
    /// # Errors
    /// The range does not lie on the disk; the tables cannot be read or are corrupt.
    pub async fn extent(&self, offset: u64, len: u64) -> IoResult<Extent> {
        self.check_range(offset, len)?;
        let run = self.lookup(offset, len).await?;
        let kind = match run.mapping {
            Mapping::Unallocated => ExtentKind::Unallocated,
            Mapping::Zero => ExtentKind::Zero,
            Mapping::Data(host) => ExtentKind::Data {
                host_offset: host + offset % self.cluster_size(),
            },
        };
        Ok(Extent { len: run.len, kind })
    }

    /// The longest run from `offset` on that one look at the tables finds.
    pub(super) async fn lookup(&self, offset: u64, len: u64) -> IoResult<Run> {
        let cluster_size = self.cluster_size();
        let coverage = self.header.borrow().l2_coverage();
        let Some(table) = self.l2_table(to_usize(offset / coverage))? else {
            return Ok(Run {
                len: len.min(coverage - offset % coverage),
                mapping: Mapping::Unallocated,
            });
        };
        let cluster = offset % coverage / cluster_size;
        let slice = self.slice(table, cluster).await?;
        let first = cluster % SLICE_ENTRIES;
        let mapping = self.decode(entry(&slice, first), offset)?;
        let wanted = (offset % cluster_size + len).div_ceil(cluster_size);
        let most = wanted.min(SLICE_ENTRIES - first);
        let follows = |n: u64| {
            let next = self.decode(entry(&slice, first + n), offset);
            next.is_ok_and(|next| match mapping {
                Mapping::Data(host) => next == Mapping::Data(host + n * cluster_size),
                same => next == same,
            })
        };
        let count = (1..most).find(|&n| !follows(n)).unwrap_or(most);
        Ok(Run {
            len: len.min(count * cluster_size - offset % cluster_size),
            mapping,
        })
    }

    /// Offset of the L2 table that L1 names at `index`, if there is one.
    pub(super) fn l2_table(&self, index: usize) -> IoResult<Option<u64>> {
        let offset = self.l1.get(index).swap_bytes();
        if offset == 0 {
            return Ok(None);
        }
        if !self.is_valid_table(offset) {
            return Err(self.corrupt(format!("L1 entry {index} names no table: {offset:#x}")));
        }
        Ok(Some(offset))
    }

    /// The piece of an L2 table that holds the entry of its cluster number `cluster`.
    pub(super) async fn slice(&self, table: u64, cluster: u64) -> IoResult<Rc<Slice>> {
        self.l2.get(table + cluster / SLICE_ENTRIES * SLICE).await
    }

    /// Reads an L2 entry.
    fn decode(&self, raw: u64, guest: u64) -> IoResult<Mapping> {
        match raw {
            0 => Ok(Mapping::Unallocated),
            ZERO => Ok(Mapping::Zero),
            offset if self.is_valid_data(offset) => Ok(Mapping::Data(offset)),
            offset => Err(self.corrupt(format!(
                "the L2 entry of guest offset {guest:#x} names no cluster: {offset:#x}"
            ))),
        }
    }

    /// Whether a whole table can lie there.
    pub(super) fn is_valid_table(&self, offset: u64) -> bool {
        self.is_place(offset, self.header.borrow().table_bytes())
    }

    /// Whether a data cluster can lie there.
    pub(super) fn is_valid_data(&self, offset: u64) -> bool {
        self.is_place(offset, self.cluster_size())
    }

    /// Whether `len` bytes at `offset` are clusters within the file, and neither header nor L1.
    fn is_place(&self, offset: u64, len: u64) -> bool {
        let header = self.header.borrow();
        let l1_end = header.l1_offset + header.table_bytes();
        let inside = offset.checked_add(len).is_some_and(|end| {
            end <= self.end.get() && (end <= header.l1_offset || offset >= l1_end)
        });
        inside && offset.is_multiple_of(header.cluster_size) && offset >= header.bytes()
    }
}

/// The entry at `index` of a slice. The cache thinks in big-endian numbers.
pub(super) fn entry(slice: &Slice, index: u64) -> u64 {
    slice.entry(to_usize(index)).swap_bytes()
}
