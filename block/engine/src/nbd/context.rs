//! Metadata contexts: the questions that BLOCK_STATUS answers.

use strata_format::extent::DiskExtent;
use strata_storage::nbd::wire::proto::Allocation;

/// A metadata context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Context {
    /// `base:allocation`: holes and zeros.
    Allocation,
    /// `qemu:allocation-depth`: which layer holds a range, 1 for the top, 0 for none.
    Depth,
    /// `qemu:dirty-bitmap:NAME`: what is dirty in the export's bitmap of this index.
    Bitmap(usize),
}

impl Context {
    /// Its number on the wire.
    pub fn id(self) -> u32 {
        match self {
            Self::Allocation => 0,
            Self::Depth => 1,
            Self::Bitmap(index) => 2 + u32::try_from(index).expect("an export has few bitmaps"),
        }
    }

    /// Its flags for an extent of the disk, which says nothing of bitmaps.
    pub fn status(self, extent: &DiskExtent) -> u32 {
        match self {
            Self::Allocation if extent.zero => (Allocation::HOLE | Allocation::ZERO).bits(),
            Self::Allocation | Self::Bitmap(_) => 0,
            Self::Depth => extent.depth,
        }
    }

    /// Lengths and flags for consecutive extents; neighbours differ.
    pub fn describe(self, extents: &[DiskExtent]) -> Vec<(u64, u32)> {
        let mut runs: Vec<(u64, u32)> = Vec::with_capacity(extents.len());
        for extent in extents {
            let status = self.status(extent);
            match runs.last_mut() {
                Some((len, last)) if *last == status => *len += extent.len,
                _ => runs.push((extent.len, status)),
            }
        }
        runs
    }
}

/// Whether `query` asks for the context of this name. A namespace, alone or with the kind of
/// context, is a wildcard where those are allowed.
pub(super) fn matches(name: &str, query: &str, wildcards: bool) -> bool {
    let wildcard = wildcards && query.ends_with(':') && name.starts_with(query);
    query == name || wildcard
}

#[cfg(test)]
mod tests;
