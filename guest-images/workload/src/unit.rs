//! A unit: 4 KiB that say which write put them where.
//!
//! | word | content |
//! |---|---|
//! | 0 | magic |
//! | 1 | seed of the run |
//! | 2 | disk (upper half), unit number on it |
//! | 3 | index of the write in its lane |
//! | 4 | checksum of words 0 to 3, and the key of the rest |
//! | 5.. | a sequence that follows from the key |
//!
//! A lost write shows as an older index, a misplaced one as another disk or unit, a torn one as a
//! sequence that changes inside the unit.

use crate::stream::{UNIT_BYTES, mix};
use std::fmt;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

#[cfg(test)]
mod tests;

const MAGIC: u64 = u64::from_le_bytes(*b"STRATA\x01u");
const WORDS: usize = UNIT_BYTES / 8;
const FIRST_FILL_WORD: usize = 5;

/// The bytes of one unit, aligned for `O_DIRECT`.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
pub struct Unit {
    words: [u64; WORDS],
}

/// Which write a unit's content comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Seed of the run.
    pub seed: u64,
    /// Index of the disk.
    pub disk: u32,
    /// Unit number on the disk.
    pub unit: u32,
    /// Index of the write among its lane's operations.
    pub op: u32,
}

/// What a unit turned out to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// All bytes zero.
    Zeros,
    /// Exactly what the write with this stamp wrote.
    Intact(Stamp),
    /// Starts with this stamp but differs from what it wrote, first at this byte of the unit.
    Torn(Stamp, usize),
    /// Nothing that the workload writes; the first 8 bytes are given.
    Foreign(u64),
}

impl Stamp {
    fn header(self) -> [u64; FIRST_FILL_WORD] {
        let place = (u64::from(self.disk) << 32) | u64::from(self.unit);
        let words = [MAGIC, self.seed, place, u64::from(self.op)];
        let checksum = words
            .iter()
            .fold(0, |sum, word| mix(sum ^ word).wrapping_add(1));
        [words[0], words[1], words[2], words[3], checksum]
    }

    fn words(self) -> impl Iterator<Item = u64> {
        let header = self.header();
        let key = header[FIRST_FILL_WORD - 1];
        let fill = (FIRST_FILL_WORD..WORDS).map(move |index| {
            let x = key.wrapping_add((index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            x ^ (x >> 32)
        });
        header.into_iter().chain(fill)
    }
}

impl Unit {
    /// `count` units of zeros.
    pub fn zeroed(count: usize) -> Vec<Unit> {
        vec![Unit::new_zeroed(); count]
    }

    /// Fills the unit with what a write with this stamp writes.
    pub fn fill(&mut self, stamp: Stamp) {
        for (word, value) in self.words.iter_mut().zip(stamp.words()) {
            *word = value;
        }
    }

    /// Whether the unit holds exactly what `expected` says; `None` stands for zeros.
    pub fn holds(&self, expected: Option<Stamp>) -> bool {
        match expected {
            Some(stamp) => self.words.iter().copied().eq(stamp.words()),
            None => self.words.iter().all(|&word| word == 0),
        }
    }

    /// Finds out what the unit holds.
    pub fn identify(&self) -> Content {
        if self.holds(None) {
            return Content::Zeros;
        }
        let [u0, u1, u2, u3, d0, d1, d2, d3] = self.words[2].to_le_bytes();
        let [o0, o1, o2, o3, ..] = self.words[3].to_le_bytes();
        let stamp = Stamp {
            seed: self.words[1],
            disk: u32::from_le_bytes([d0, d1, d2, d3]),
            unit: u32::from_le_bytes([u0, u1, u2, u3]),
            op: u32::from_le_bytes([o0, o1, o2, o3]),
        };
        if self.words[..FIRST_FILL_WORD] != stamp.header() {
            return Content::Foreign(self.words[0]);
        }
        let mut pairs = self.words.iter().zip(stamp.words());
        match pairs.position(|(&found, wanted)| found != wanted) {
            None => Content::Intact(stamp),
            Some(index) => Content::Torn(stamp, index * 8),
        }
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stamp {
            seed,
            disk,
            unit,
            op,
        } = self;
        write!(f, "run {seed} disk {disk} unit {unit} op {op}")
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Zeros => write!(f, "zeros"),
            Content::Intact(stamp) => write!(f, "[{stamp}]"),
            Content::Torn(stamp, byte) => write!(f, "[{stamp}] torn at byte {byte}"),
            Content::Foreign(word) => write!(f, "foreign bytes {word:016x}"),
        }
    }
}
