//! Reads and writes that go past the host's page cache (`O_DIRECT`), for `cache=none`.
//!
//! The host wants whole blocks in memory that is aligned. What is not goes through a buffer that
//! is; a read takes the blocks around what it wants; and what a write has before its first and
//! behind its last whole block is written through the page cache, which the kernel keeps true to
//! what lies beside it.

use std::{
    fs::{File, OpenOptions},
    io,
    ops::Range,
    os::unix::fs::OpenOptionsExt,
};

use strata_exec::{
    mem::{SgList, to_usize},
    sync::Budget,
};

use super::{
    vectored::{self, Way},
    watch,
};

/// Bytes of a block: as much as any host's file system or disk asks for, and a page, so that no
/// page is written in both ways at once.
const BLOCK: u64 = 4096;

/// What the memory of a request has to be aligned to, so that the host takes it as it is: a sector.
/// A disk that wants more refuses the request (EINVAL), which goes through a buffer then.
const SECTOR: usize = 512;

/// Keeps writes through the page cache apart from those past it. The kernel drops the page cache's
/// copy of what is written past it. If that was changed while the write was under way (and a copy
/// may be of many blocks) it cannot, and calls that a write that it has lost: the next fdatasync
/// fails. It keeps the two apart itself only as long as a call lasts, not while a ring's write is
/// under way.
pub(super) struct Turns(Budget);

/// Held while something is written; the next ones get their turn when it is dropped.
pub(super) struct Turn<'a>(&'a Budget, u64);

/// More than there are writes at a time.
const ALL_TURNS: u64 = 1 << 32;

impl Turns {
    pub fn new() -> Self {
        Self(Budget::new(ALL_TURNS))
    }

    /// Waits until nothing is written through the page cache.
    pub async fn past_page_cache(&self) -> Turn<'_> {
        Turn(&self.0, self.0.take(1).await)
    }

    /// Waits until nothing else is written.
    pub async fn through_page_cache(&self) -> Turn<'_> {
        Turn(&self.0, self.0.take(ALL_TURNS).await)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.give_back(self.1);
    }
}

/// The same file, opened to be used past the page cache.
///
/// # Errors
/// The file system cannot do it; the host's error otherwise, also where there is no `/proc`.
pub(super) fn reopen(file: &File, read_only: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(!read_only);
    let opened = watch::reopen(file, options.custom_flags(libc::O_DIRECT));
    opened.map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => io::Error::new(
            io::ErrorKind::Unsupported,
            "the file system does not support O_DIRECT: use another cache mode than none and directsync",
        ),
        _ => error,
    })
}

/// Whether the host may take the request as it is.
pub(super) fn is_aligned(offset: u64, data: &SgList) -> bool {
    let whole = offset.is_multiple_of(BLOCK) && (data.len() as u64).is_multiple_of(BLOCK);
    let aligned = |(base, len): (*mut u8, usize)| {
        base.align_offset(SECTOR) == 0 && len.is_multiple_of(SECTOR)
    };
    whole && data.pieces().all(aligned)
}

/// Whether a read that came as far as this byte has met the end of the file: the last block is not
/// whole, and there is no asking for more.
pub(super) fn is_end(at: u64) -> bool {
    !at.is_multiple_of(BLOCK)
}

/// The blocks around a range: where they start, and aligned memory for them.
pub(super) fn blocks_around(offset: u64, data: &SgList) -> io::Result<(u64, SgList)> {
    let start = offset - offset % BLOCK;
    let end = end_of(offset, data)?.checked_next_multiple_of(BLOCK);
    let len = end.ok_or_else(too_large)? - start;
    Ok((start, aligned(to_usize(len))))
}

/// Memory that starts at a block.
fn aligned(len: usize) -> SgList {
    let larger = SgList::from_vec(vec![0; len + to_usize(BLOCK)]);
    let base = larger.pieces().next().map(|(base, _)| base);
    let start = base.map_or(0, |base| base.align_offset(to_usize(BLOCK)));
    larger.slice(start, len)
}

/// A copy in memory that starts at a block.
pub(super) fn aligned_copy(data: &SgList) -> SgList {
    let copy = aligned(data.len());
    copy.copy_all_from(data);
    copy
}

/// Fills `data` from `offset` on, with zeros behind the end of the file.
pub(super) fn read(file: &File, offset: u64, data: &SgList) -> io::Result<()> {
    let fill = |at, target: &SgList| {
        let left = vectored::read(file, at, target, Way::Direct)?.rest(at, target);
        debug_assert!(left.is_none(), "it waits for all");
        Ok(())
    };
    if is_aligned(offset, data) {
        match fill(offset, data) {
            Err(error) if wants_more(&error) => {}
            result => return result,
        }
    }
    let (start, blocks) = blocks_around(offset, data)?;
    fill(start, &blocks)?;
    data.copy_all_from(&blocks.slice(to_usize(offset - start), data.len()));
    Ok(())
}

/// The part of `data`, which is for `offset`, that fills whole blocks.
pub(super) fn whole_blocks(offset: u64, data: &SgList) -> Range<usize> {
    let len = data.len();
    let start = to_usize((offset.next_multiple_of(BLOCK) - offset).min(len as u64));
    let rest = len - start;
    start..start + rest - rest % to_usize(BLOCK)
}

/// Writes whole blocks.
pub(super) fn write(file: &File, offset: u64, data: &SgList) -> io::Result<()> {
    end_of(offset, data)?;
    if is_aligned(offset, data) {
        match vectored::write(file, offset, data) {
            Err(error) if wants_more(&error) => {}
            result => return result,
        }
    }
    vectored::write(file, offset, &aligned_copy(data))
}

/// Whether the host wants memory that is aligned to more than [`SECTOR`].
fn wants_more(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}

fn end_of(offset: u64, data: &SgList) -> io::Result<u64> {
    offset.checked_add(data.len() as u64).ok_or_else(too_large)
}

fn too_large() -> io::Error {
    io::Error::from_raw_os_error(libc::EFBIG)
}

#[cfg(test)]
mod tests;
