//! Replies of the transmission phase, ready to be sent.

use strata_storage::nbd::wire::proto::{
    ChunkHeader, EXTENDED_REPLY_MAGIC, ExtendedChunkHeader, REPLY_DONE, SIMPLE_REPLY_MAGIC,
    STRUCTURED_REPLY_MAGIC, SimpleReply, chunk,
};
use zerocopy::IntoBytes;

use super::{context::Context, request::Refusal};

/// Which kind of replies was negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Simple,
    Structured,
    Extended,
}

/// What a reply answers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    pub style: Style,
    pub cookie: u64,
    pub offset: u64,
}

/// A part of what has been read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Bytes.
    Data(Vec<u8>),
    /// So many zeros.
    Hole(u32),
}

/// Pieces of a reply, to be sent one after the other.
pub(super) type Pieces = Vec<Vec<u8>>;

impl Question {
    /// Success without content.
    pub fn done(&self) -> Pieces {
        match self.style {
            Style::Simple => vec![self.simple(0)],
            _ => vec![self.chunk(REPLY_DONE, chunk::NONE, 0)],
        }
    }

    /// An error.
    pub fn failed(&self, refusal: Refusal) -> Pieces {
        let error = refusal.errno as u32;
        if self.style == Style::Simple {
            return vec![self.simple(error)];
        }
        let text = refusal.why.as_bytes();
        let mut piece = self.chunk(REPLY_DONE, chunk::ERROR, 6 + text.len());
        piece.extend(error.to_be_bytes());
        let len = u16::try_from(text.len()).expect("our own texts are short");
        piece.extend(len.to_be_bytes());
        piece.extend(text);
        vec![piece]
    }

    /// What has been read, from the request's offset on without gaps. Simple replies carry one
    /// piece of data.
    pub fn content(&self, parts: Vec<Content>) -> Pieces {
        let mut pieces = Vec::with_capacity(parts.len() * 2 + 1);
        if self.style == Style::Simple {
            pieces.push(self.simple(0));
            pieces.extend(parts.into_iter().map(|part| match part {
                Content::Data(bytes) => bytes,
                Content::Hole(len) => vec![0; len as usize],
            }));
            return pieces;
        }
        let mut offset = self.offset;
        let last = parts.len().saturating_sub(1);
        for (index, part) in parts.into_iter().enumerate() {
            let flags = if index == last { REPLY_DONE } else { 0 };
            match part {
                Content::Data(bytes) => {
                    let mut head = self.chunk(flags, chunk::OFFSET_DATA, 8 + bytes.len());
                    head.extend(offset.to_be_bytes());
                    offset += bytes.len() as u64;
                    pieces.extend([head, bytes]);
                }
                Content::Hole(len) => {
                    let mut piece = self.chunk(flags, chunk::OFFSET_HOLE, 12);
                    piece.extend(offset.to_be_bytes());
                    piece.extend(len.to_be_bytes());
                    offset += u64::from(len);
                    pieces.push(piece);
                }
            }
        }
        if pieces.is_empty() {
            return self.done();
        }
        pieces
    }

    /// BLOCK_STATUS: for every context its runs of length and flags.
    pub fn status(&self, contexts: &[(Context, Vec<(u64, u32)>)]) -> Pieces {
        let mut pieces = Vec::with_capacity(contexts.len());
        for (index, (context, runs)) in contexts.iter().enumerate() {
            let last = index + 1 == contexts.len();
            let flags = if last { REPLY_DONE } else { 0 };
            pieces.push(match self.style {
                Style::Extended => self.long_status(flags, *context, runs),
                _ => self.short_status(flags, *context, runs),
            });
        }
        pieces
    }

    fn short_status(&self, flags: u16, context: Context, runs: &[(u64, u32)]) -> Vec<u8> {
        let mut piece = self.chunk(flags, chunk::BLOCK_STATUS, 4 + 8 * runs.len());
        piece.extend(context.id().to_be_bytes());
        for (len, status) in runs {
            // The request's length had 32 bits.
            piece.extend(u32::try_from(*len).unwrap_or(u32::MAX).to_be_bytes());
            piece.extend(status.to_be_bytes());
        }
        piece
    }

    fn long_status(&self, flags: u16, context: Context, runs: &[(u64, u32)]) -> Vec<u8> {
        let mut piece = self.chunk(flags, chunk::BLOCK_STATUS_EXT, 8 + 16 * runs.len());
        piece.extend(context.id().to_be_bytes());
        let count = u32::try_from(runs.len()).expect("a reply has a bounded number of extents");
        piece.extend(count.to_be_bytes());
        for (len, status) in runs {
            piece.extend(len.to_be_bytes());
            piece.extend(u64::from(*status).to_be_bytes());
        }
        piece
    }

    fn simple(&self, error: u32) -> Vec<u8> {
        SimpleReply {
            magic: SIMPLE_REPLY_MAGIC.into(),
            error: error.into(),
            cookie: self.cookie.into(),
        }
        .as_bytes()
        .to_vec()
    }

    /// A chunk's header, in which `len` bytes of payload are announced.
    fn chunk(&self, flags: u16, kind: u16, len: usize) -> Vec<u8> {
        let (flags, kind, cookie) = (flags.into(), kind.into(), self.cookie.into());
        if self.style == Style::Extended {
            let header = ExtendedChunkHeader {
                magic: EXTENDED_REPLY_MAGIC.into(),
                flags,
                kind,
                cookie,
                offset: self.offset.into(),
                len: (len as u64).into(),
            };
            return header.as_bytes().to_vec();
        }
        let len = u32::try_from(len).expect("the maximum payload and a few bytes");
        let header = ChunkHeader {
            magic: STRUCTURED_REPLY_MAGIC.into(),
            flags,
            kind,
            cookie,
            len: len.into(),
        };
        header.as_bytes().to_vec()
    }
}

#[cfg(test)]
mod tests;
