//! Metadata contexts: the questions that BLOCK_STATUS answers.

use super::proto::Allocation;
use crate::extent::DiskExtent;

/// A metadata context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Context {
    /// `base:allocation`: holes and zeros.
    Allocation,
    /// `qemu:allocation-depth`: which layer holds a range, 1 for the top, 0 for none.
    Depth,
}

impl Context {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Allocation, Self::Depth];

    /// Its number on the wire.
    pub fn id(self) -> u32 {
        match self {
            Self::Allocation => 0,
            Self::Depth => 1,
        }
    }

    /// Namespace and leaf name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allocation => "base:allocation",
            Self::Depth => "qemu:allocation-depth",
        }
    }

    /// Whether `query` asks for it. A namespace alone is a wildcard, where those are allowed.
    pub fn matches(self, query: &str, wildcards: bool) -> bool {
        let namespace = self.name().split_inclusive(':').next();
        query == self.name() || (wildcards && namespace == Some(query))
    }

    /// Its flags for an extent.
    pub fn status(self, extent: &DiskExtent) -> u32 {
        match self {
            Self::Allocation if extent.zero => (Allocation::HOLE | Allocation::ZERO).bits(),
            Self::Allocation => 0,
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

/// The contexts that some of `queries` ask for, each once.
pub(super) fn select(queries: &[&str], wildcards: bool) -> Vec<Context> {
    let wanted = |context: &Context| {
        queries
            .iter()
            .any(|query| context.matches(query, wildcards))
    };
    Context::ALL.into_iter().filter(wanted).collect()
}

#[cfg(test)]
mod tests;
