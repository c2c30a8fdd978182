//! One change of a simulated file, and the parts of it that a disk writes as a whole.

use super::{Content, SECTOR};

/// A change.
#[derive(Clone)]
pub(super) enum Change {
    /// These bytes lie there.
    Write { offset: usize, bytes: Vec<u8> },
    /// Zeros lie there, perhaps as a hole.
    Zero {
        offset: usize,
        len: usize,
        hole: bool,
    },
    /// The file has this length.
    SetLen(usize),
}

impl Change {
    pub(super) fn offset(&self) -> usize {
        match self {
            Self::Write { offset, .. } | Self::Zero { offset, .. } | Self::SetLen(offset) => {
                *offset
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Write { bytes, .. } => bytes.len(),
            Self::Zero { len, .. } => *len,
            Self::SetLen(_) => 0,
        }
    }

    pub(super) fn apply(&self, content: &mut Content) {
        match self {
            Self::Write { offset, bytes } => content.write(*offset, bytes),
            Self::Zero { offset, len, hole } => content.zero(*offset, *len, *hole),
            Self::SetLen(len) => content.set_len(*len),
        }
    }

    /// The `len` bytes from byte `at` of the change on; all of a length change.
    fn part(&self, at: usize, len: usize) -> Self {
        match self {
            Self::Write { offset, bytes } => Self::Write {
                offset: offset + at,
                bytes: bytes[at..at + len].to_vec(),
            },
            Self::Zero { offset, hole, .. } => Self::Zero {
                offset: offset + at,
                len,
                hole: *hole,
            },
            Self::SetLen(len) => Self::SetLen(*len),
        }
    }

    /// The parts that a disk writes as a whole.
    pub(super) fn parts(&self) -> impl Iterator<Item = Self> {
        let (offset, end) = (self.offset(), self.len());
        let mut at = 0;
        let mut first = true;
        std::iter::from_fn(move || {
            let len = (SECTOR - (offset + at) % SECTOR).min(end - at);
            let part = (first || len != 0).then(|| self.part(at, len));
            first = false;
            at += len;
            part
        })
    }

    /// The change in two steps, if it is one that can be `cut`.
    pub(super) fn halves(self, cut: bool) -> (Self, Option<Self>) {
        let (offset, len) = (self.offset(), self.len());
        let middle = (offset + len / 2).next_multiple_of(SECTOR) - offset;
        if !cut || middle >= len {
            return (self, None);
        }
        let second = self.part(middle, len - middle);
        (self.part(0, middle), Some(second))
    }
}
