//! Scatter-gather lists: the memory that a request reads into or writes from.
//!
//! A list points straight into guest memory (so that a guest read of an allocated cluster is one
//! copy in the kernel) or into a buffer of its own. Either way it holds what keeps the memory
//! mapped, so that it may travel to a helper thread and outlive the request's device.
//!
//! The guest may change its memory at any time, also while a request is under way. So bytes are
//! only ever copied in or out, never borrowed as a slice, and nothing is read twice that must not
//! change in between.
#![allow(unsafe_code)] // Holds raw memory, for requests that point straight into the guest.

use std::{any::Any, cell::UnsafeCell, fmt, sync::Arc};

use smallvec::{SmallVec, smallvec};

/// `value` as a length or an index in memory. Nothing is lost: a `usize` has 64 bits wherever this
/// builds.
pub const fn to_usize(value: u64) -> usize {
    const { assert!(usize::BITS == u64::BITS) };
    #[allow(clippy::cast_possible_truncation)]
    {
        value as usize
    }
}

/// One contiguous piece of memory.
#[derive(Clone, Copy, Debug)]
struct Segment {
    base: *mut u8,
    len: usize,
}

/// A scatter-gather list. Cloning and slicing are cheap and share the memory.
#[derive(Clone)]
pub struct SgList {
    /// Most requests have one or two.
    segments: SmallVec<[Segment; 2]>,
    len: usize,
    keep: Option<Arc<dyn Any + Send + Sync>>,
}

// SAFETY: the segments point into memory that `keep` keeps mapped for as long as the list lives,
// and that is only accessed by copying. `from_raw`'s caller upholds that any thread may do so.
unsafe impl Send for SgList {}
// SAFETY: as above; a shared list does nothing but copy, too.
unsafe impl Sync for SgList {}

/// An owned buffer whose bytes are shared by the lists made from it.
struct Owned(Box<[UnsafeCell<u8>]>);

// SAFETY: the bytes are plain data, and lists on one buffer that are used by several threads at a
// time race only in what the bytes are, as they would on guest memory.
unsafe impl Sync for Owned {}

impl SgList {
    /// A list without bytes.
    pub fn empty() -> Self {
        Self {
            segments: SmallVec::new(),
            len: 0,
            keep: None,
        }
    }

    /// A list on pieces of memory given by address and length in bytes.
    ///
    /// # Safety
    /// Every piece stays mapped, readable and writable, for as long as `keep` lives; any thread
    /// may access it; and nobody holds a Rust reference to its bytes.
    pub unsafe fn from_raw(
        pieces: impl IntoIterator<Item = (*mut u8, usize)>,
        keep: Arc<dyn Any + Send + Sync>,
    ) -> Self {
        let mut list = Self {
            segments: SmallVec::new(),
            len: 0,
            keep: Some(keep),
        };
        for (base, len) in pieces.into_iter().filter(|piece| piece.1 != 0) {
            list.len = list
                .len
                .checked_add(len)
                .expect("a list is smaller than the address space");
            list.segments.push(Segment { base, len });
        }
        list
    }

    /// A list on a new buffer of `len` zero bytes, whose sectors are aligned as a disk's.
    ///
    /// The kernel copies a write up to a page that is not there yet, and ends it there if the
    /// process has just been killed. So a page must not begin within a sector.
    pub fn zeroed(len: usize) -> Self {
        const SECTOR: usize = 512;
        let larger = Self::from_vec(vec![0; len + SECTOR - 1]);
        let base = larger.segments[0].base;
        larger.slice(base.align_offset(SECTOR), len)
    }

    /// A list on a buffer that holds `bytes`, wherever its sectors lie in memory.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        let len = bytes.len();
        if len == 0 {
            return Self::empty();
        }
        let raw = Box::into_raw(bytes.into_boxed_slice()) as *mut [UnsafeCell<u8>];
        // SAFETY: `UnsafeCell<u8>` has the layout of `u8`, and the box gave up its ownership.
        let owned = Arc::new(Owned(unsafe { Box::from_raw(raw) }));
        let base = UnsafeCell::raw_get(owned.0.as_ptr());
        Self {
            segments: smallvec![Segment { base, len }],
            len,
            keep: Some(owned),
        }
    }

    /// The bytes of several lists one after the other, in the same memory.
    pub fn concat(parts: &[SgList]) -> Self {
        let keep: Vec<_> = parts.iter().filter_map(|part| part.keep.clone()).collect();
        Self {
            segments: parts
                .iter()
                .flat_map(|part| part.segments.clone())
                .collect(),
            len: parts.iter().map(|part| part.len).sum(),
            keep: Some(Arc::new(keep)),
        }
    }

    /// Bytes in the list.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the list has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Addresses and lengths of the pieces, for vectored system calls. They are valid for as long
    /// as the list lives.
    pub fn pieces(&self) -> impl Iterator<Item = (*mut u8, usize)> + '_ {
        self.segments.iter().map(|s| (s.base, s.len))
    }

    /// The same of the bytes from `offset` on.
    ///
    /// # Panics
    /// If that is behind the list's end.
    pub fn pieces_from(&self, offset: usize) -> impl Iterator<Item = (*mut u8, usize)> + '_ {
        let len = self.len.checked_sub(offset);
        let len = len.expect("the offset is not behind the end");
        self.pieces_in(offset, len).map(|s| (s.base, s.len))
    }

    /// The `len` bytes from `offset` on, as a list on the same memory.
    ///
    /// # Panics
    /// If the range is not within the list: callers cut what they have measured.
    pub fn slice(&self, offset: usize, len: usize) -> Self {
        let segments = self.pieces_in(offset, len).collect();
        Self {
            segments,
            len,
            keep: self.keep.clone(),
        }
    }

    /// Copies the bytes from `offset` on into `out`.
    ///
    /// # Panics
    /// If the range is not within the list.
    pub fn copy_to(&self, offset: usize, out: &mut [u8]) {
        let mut done = 0;
        for piece in self.pieces_in(offset, out.len()) {
            let dst = out[done..done + piece.len].as_mut_ptr();
            // SAFETY: the piece lies in memory that `keep` keeps mapped (`from_raw`'s contract),
            // and `dst` is a slice of that length which nobody else can reach.
            unsafe { std::ptr::copy_nonoverlapping(piece.base, dst, piece.len) };
            done += piece.len;
        }
    }

    /// Copies `bytes` into the list from `offset` on.
    ///
    /// # Panics
    /// If the range is not within the list.
    pub fn copy_from(&self, offset: usize, bytes: &[u8]) {
        let mut done = 0;
        for piece in self.pieces_in(offset, bytes.len()) {
            let src = bytes[done..done + piece.len].as_ptr();
            // SAFETY: the piece lies in memory that `keep` keeps mapped and that no Rust reference
            // covers (`from_raw`'s contract), so it cannot overlap `src`.
            unsafe { std::ptr::copy_nonoverlapping(src, piece.base, piece.len) };
            done += piece.len;
        }
    }

    /// Copies the bytes of another list, which is as long and lies elsewhere, into this one.
    ///
    /// # Panics
    /// If the other list is longer.
    pub fn copy_all_from(&self, source: &Self) {
        let mut done = 0;
        for from in &source.segments {
            let mut copied = 0;
            for to in self.pieces_in(done, from.len) {
                let start = from.base.wrapping_add(copied);
                // SAFETY: both pieces lie in memory that their lists keep mapped and that no Rust
                // reference covers (`from_raw`'s contract); `copy` allows them to overlap.
                unsafe { std::ptr::copy(start, to.base, to.len) };
                copied += to.len;
            }
            done += from.len;
        }
    }

    /// Sets `len` bytes from `offset` on to `byte`.
    ///
    /// # Panics
    /// If the range is not within the list.
    pub fn fill(&self, offset: usize, len: usize, byte: u8) {
        for piece in self.pieces_in(offset, len) {
            // SAFETY: the piece lies in memory that `keep` keeps mapped (`from_raw`'s contract).
            unsafe { std::ptr::write_bytes(piece.base, byte, piece.len) };
        }
    }

    /// A copy of all bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = vec![0; self.len];
        self.copy_to(0, &mut out);
        out
    }

    /// The bytes, without a copy where this is the last list on a whole buffer of its own.
    pub fn into_vec(mut self) -> Vec<u8> {
        let Some(owned) = self.take_buffer() else {
            return self.to_vec();
        };
        let raw = Box::into_raw(owned.0) as *mut [u8];
        // SAFETY: `UnsafeCell<u8>` has the layout of `u8`, the box gave up its ownership, and no
        // other list is left to reach the bytes.
        unsafe { Box::from_raw(raw) }.into_vec()
    }

    /// Takes the buffer out if nobody shares it. The list is not used afterwards.
    fn take_buffer(&mut self) -> Option<Owned> {
        let owned = self.keep.clone()?.downcast::<Owned>().ok()?;
        if owned.0.len() != self.len {
            return None;
        }
        self.keep = None;
        let shared = |owned: Arc<Owned>| self.keep = Some(owned);
        Arc::try_unwrap(owned).map_err(shared).ok()
    }

    /// Whether every byte is zero at the time of looking.
    pub fn is_zero(&self) -> bool {
        self.is_zero_at(0, self.len)
    }

    /// The same of `len` bytes from `offset` on.
    ///
    /// # Panics
    /// If the range is not within the list.
    pub fn is_zero_at(&self, offset: usize, len: usize) -> bool {
        let mut chunk = [0u8; 4096];
        let (mut at, end) = (offset, offset + len);
        while at < end {
            // Data mostly shows in its first bytes.
            let most = if at == offset { 64 } else { chunk.len() };
            let bytes = &mut chunk[..most.min(end - at)];
            self.copy_to(at, bytes);
            // Compared with itself one byte further on, which the processor does fast.
            if bytes[0] != 0 || bytes[1..] != bytes[..bytes.len() - 1] {
                return false;
            }
            at += bytes.len();
        }
        true
    }

    /// The parts of the pieces that lie in the range.
    fn pieces_in(&self, offset: usize, len: usize) -> impl Iterator<Item = Segment> + '_ {
        let end = offset.checked_add(len).expect("the range's end fits");
        assert!(
            end <= self.len,
            "range {offset}+{len} outside a list of {} bytes",
            self.len
        );
        let mut at = 0;
        self.segments.iter().filter_map(move |segment| {
            let (start, stop) = (at, at + segment.len);
            at = stop;
            let (from, to) = (start.max(offset), stop.min(end));
            (from < to).then(|| Segment {
                base: segment.base.wrapping_add(from - start),
                len: to - from,
            })
        })
    }
}

/// Gives memory that has been freed back to the host, which the allocator of the C library keeps
/// otherwise. May take some milliseconds.
pub fn give_back_to_host() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: only touches memory that has been freed; any thread may call it.
        unsafe { libc::malloc_trim(0) };
    }
}

impl fmt::Debug for SgList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SgList({} bytes in {} pieces)",
            self.len,
            self.segments.len()
        )
    }
}

#[cfg(test)]
mod tests;
