//! Cutting sources into pieces to copy.

use std::cell::Cell;

use strata_exec::mem::SgList;
use strata_format::extent::ExtentKind;
use strata_storage::error::IoResult;

use super::{CopyError, CopyOptions, Source, Untouched, offload::Place};
use crate::{Format, Node, Walk};

/// Bytes that one piece of zeros has at most, so that the progress can be seen.
const ZERO_CHUNK: u64 = 1 << 30;

/// What the sources hold in a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Data,
    Zero,
    /// What lies below the layers that are copied.
    Base,
}

/// A part of the disk to copy. Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    pub offset: u64,
    pub len: u64,
    pub kind: Kind,
}

/// Goes through the sources from their start to their end.
pub struct Plan {
    /// Where each one starts on the target's disk.
    sources: Vec<(u64, Source)>,
    total: u64,
    /// Bytes of data in a piece at most: a multiple of `cluster`.
    chunk: u64,
    /// Of the target.
    cluster: u64,
    compress: bool,
    salvage: bool,
    keep_zeros: bool,
    /// Bytes for which the target shows what lies below the copied layers.
    base_size: Option<u64>,
    next: Cell<u64>,
    /// What was found at `next`, and the end of it.
    found: Cell<(u64, Kind)>,
}

impl Plan {
    pub fn new(sources: Vec<Source>, target: &Node, options: &CopyOptions, chunk: u64) -> Self {
        let mut total = 0;
        let sources = sources
            .into_iter()
            .map(|source| {
                let start = total;
                total += source.top.size();
                (start, source)
            })
            .collect();
        let cluster = target.cluster_size();
        Self {
            sources,
            total,
            chunk: if options.compress { cluster } else { chunk },
            cluster,
            compress: options.compress,
            salvage: options.salvage,
            keep_zeros: options.sparse == 0,
            base_size: match options.untouched {
                Untouched::Base(size) => Some(size),
                Untouched::Unknown | Untouched::Zeros => None,
            },
            next: Cell::new(0),
            found: Cell::new((0, Kind::Base)),
        }
    }

    /// Bytes of all sources.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The next piece; only one call at a time.
    pub async fn next(&self) -> Result<Option<Piece>, CopyError> {
        let offset = self.next.get();
        if offset == self.total {
            return Ok(None);
        }
        if self.found.get().0 <= offset {
            let (len, kind) = match self.look(offset).await {
                Ok(found) => found,
                // Reading it shows more.
                Err(_) if self.salvage => (self.unit(offset), Kind::Data),
                Err(source) => return Err(CopyError::Status { offset, source }),
            };
            self.found.set((offset + len, kind));
        }
        let (end, kind) = self.found.get();
        let piece = self.cut(offset, end - offset, kind);
        self.next.set(offset + piece.len);
        Ok(Some(piece))
    }

    /// The next piece of a run of one kind.
    fn cut(&self, offset: u64, len: u64, mut kind: Kind) -> Piece {
        let (mut end, rest) = (offset + len, self.total - offset);
        if self.compress {
            // Clusters are compressed as wholes: `offset` is the start of one.
            if len < self.cluster && len < rest {
                kind = Kind::Data;
                end = offset + self.cluster.min(rest);
            } else if len < rest {
                end -= len % self.cluster;
            }
        }
        let most = match kind {
            Kind::Data => self.chunk,
            Kind::Zero if self.keep_zeros => self.chunk,
            Kind::Zero | Kind::Base => ZERO_CHUNK,
        };
        // Pieces meet where clusters of the target do.
        let limit = (offset + most) / self.cluster * self.cluster;
        Piece {
            offset,
            len: end.min(limit) - offset,
            kind,
        }
    }

    /// What is copied from `offset` on, and for how many bytes that holds.
    async fn look(&self, offset: u64) -> IoResult<(u64, Kind)> {
        let (start, source) = self.source_at(offset);
        let within = offset - start;
        let (len, mut kind) = look(source, within, source.top.size() - within).await?;
        if let Some(base) = self.base_size {
            let beyond = offset >= base;
            if kind == Kind::Zero && beyond {
                kind = Kind::Base;
            }
            return Ok((if beyond { len } else { len.min(base - offset) }, kind));
        }
        // Nothing is left below.
        if kind == Kind::Base {
            kind = Kind::Zero;
        }
        Ok((len, kind))
    }

    /// Bytes from `offset` on about which a source's tables say one thing.
    fn unit(&self, offset: u64) -> u64 {
        let (start, source) = self.source_at(offset);
        let within = offset - start;
        let tables = source
            .top
            .chain()
            .filter(|node| node.format() != Format::Raw);
        let unit = tables.map(|node| node.granularity()).min().unwrap_or(512);
        (unit - within % unit).min(source.top.size() - within)
    }

    /// Where a part of the target's disk lies as it is; `None` if it does not lie in one piece, or
    /// is compressed.
    pub async fn place(&self, offset: u64, len: u64) -> Option<Place> {
        let (start, source) = self.source_at(offset);
        let within = offset - start;
        if within + len > source.top.size() {
            return None;
        }
        let found = source.walk().find(within, len).await.ok()?;
        match (found.kind, found.layer) {
            (ExtentKind::Data { host_offset }, Some(layer)) if found.len == len => Some(Place {
                file: layer.image().data_storage().clone(),
                offset: host_offset,
                _reading: found.reading,
            }),
            _ => None,
        }
    }

    fn source_at(&self, offset: u64) -> (u64, &Source) {
        let after = self.sources.partition_point(|(start, _)| *start <= offset);
        // The first one starts at 0; of those that start here the last one has bytes.
        let (start, source) = &self.sources[after - 1];
        (*start, source)
    }

    /// Reads what the sources show at `offset` of the target's disk.
    pub async fn read(&self, offset: u64, data: SgList) -> Result<(), CopyError> {
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let (start, source) = self.source_at(at);
            let here = source.top.size() - (at - start);
            let len = (data.len() - done).min(usize::try_from(here).unwrap_or(usize::MAX));
            let read = source.top.read(at - start, data.slice(done, len)).await;
            read.map_err(|source| CopyError::Read { offset: at, source })?;
            done += len;
        }
        Ok(())
    }
}

impl Source {
    /// Looks for ranges in the layers that are copied.
    fn walk(&self) -> Walk<'_> {
        self.top.walk().above(self.base.as_ref())
    }
}

/// What the layers of a source above its base hold.
async fn look(source: &Source, offset: u64, len: u64) -> IoResult<(u64, Kind)> {
    let found = source.walk().find(offset, len).await?;
    let kind = match found.kind {
        ExtentKind::Unallocated => Kind::Base,
        ExtentKind::Zero => Kind::Zero,
        ExtentKind::Data { .. } | ExtentKind::Compressed => Kind::Data,
    };
    Ok((found.len, kind))
}
