//! The bytes of a simulated file, in blocks that copies share until one of them is changed.

use std::rc::Rc;

/// Bytes that are allocated as one.
pub(super) const BLOCK: usize = 4096;

/// What a file holds.
#[derive(Clone, Default)]
pub struct Content {
    len: usize,
    blocks: Vec<Block>,
}

#[derive(Clone, Default)]
enum Block {
    /// Takes no space, and reads as zeros.
    #[default]
    Hole,
    /// Takes space, and reads as zeros.
    Zeros,
    Data(Rc<[u8; BLOCK]>),
}

impl Block {
    fn bytes(&mut self) -> &mut [u8; BLOCK] {
        if !matches!(self, Self::Data(_)) {
            *self = Self::Data(Rc::new([0; BLOCK]));
        }
        match self {
            Self::Data(bytes) => Rc::make_mut(bytes),
            Self::Hole | Self::Zeros => unreachable!("just filled"),
        }
    }
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        let mut content = Self::default();
        content.write(0, bytes);
        content
    }
}

impl Content {
    /// Length in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The first sector, where headers are.
    pub fn first_sector(&self) -> [u8; 512] {
        let mut bytes = [0; 512];
        self.read(0, &mut bytes);
        bytes
    }

    /// Appends a hole.
    pub fn grow_by(&mut self, bytes: usize) {
        self.set_len(self.len + bytes);
    }

    /// All bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.read(0, &mut bytes);
        bytes
    }

    /// Fills `into` from `offset` on; zeros behind the end.
    pub(super) fn read(&self, offset: usize, into: &mut [u8]) {
        for (at, start, len) in pieces(offset, into.len()) {
            let piece = &mut into[at - offset..][..len];
            match self.blocks.get(at / BLOCK) {
                Some(Block::Data(bytes)) => piece.copy_from_slice(&bytes[start..start + len]),
                _ => piece.fill(0),
            }
        }
    }

    /// Writes, growing the file where it ends before.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.grow(offset + bytes.len());
        for (at, start, len) in pieces(offset, bytes.len()) {
            let piece = &bytes[at - offset..][..len];
            let block = &mut self.blocks[at / BLOCK];
            if len == BLOCK && piece.iter().all(|&byte| byte == 0) {
                *block = Block::Zeros;
            } else {
                block.bytes()[start..start + len].copy_from_slice(piece);
            }
        }
    }

    /// Makes a range read as zeros, growing the file where it ends before; whole blocks take no
    /// space afterwards with `hole`, and take some without.
    pub(super) fn zero(&mut self, offset: usize, len: usize, hole: bool) {
        self.grow(offset + len);
        for (at, start, len) in pieces(offset, len) {
            let block = &mut self.blocks[at / BLOCK];
            match block {
                _ if len == BLOCK && hole => *block = Block::Hole,
                _ if len == BLOCK => *block = Block::Zeros,
                Block::Data(_) => block.bytes()[start..start + len].fill(0),
                Block::Hole if !hole => *block = Block::Zeros,
                Block::Hole | Block::Zeros => {}
            }
        }
    }

    /// Cuts the file, or lets it grow with a hole.
    pub(super) fn set_len(&mut self, len: usize) {
        if len < self.len && !len.is_multiple_of(BLOCK) {
            let tail = BLOCK - len % BLOCK;
            self.zero(len, tail, true);
        }
        self.blocks.resize_with(len.div_ceil(BLOCK), Block::default);
        self.len = len;
    }

    /// Whether a block is, or lies in, a hole.
    pub(super) fn is_hole(&self, offset: usize) -> bool {
        matches!(self.blocks.get(offset / BLOCK), None | Some(Block::Hole))
    }

    fn grow(&mut self, end: usize) {
        if end > self.len {
            self.set_len(end);
        }
    }
}

/// The parts of a range that lie in one block each: offset, offset in the block, length.
fn pieces(offset: usize, len: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        let start = at % BLOCK;
        let piece = (at, start, (BLOCK - start).min(end - at));
        at += piece.2;
        (piece.2 != 0).then_some(piece)
    })
}
