//! The bits of a bitmap, in memory that grows with what is dirty rather than with the disk.

use std::{collections::BTreeMap, ops::Range};

/// Bits in a chunk: 4 KiB of them.
const CHUNK_BITS: u64 = 1 << 15;
/// Words in a chunk.
const WORDS: usize = (CHUNK_BITS / 64) as usize;

/// Bits `0..len`, of which few or many are set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bits {
    len: u64,
    /// By index; a chunk that is not here has no bit set. No bit behind `len` is ever set.
    chunks: BTreeMap<u64, Chunk>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Chunk {
    /// All bits are set, and all lie before `len`.
    Ones,
    Mixed(Box<[u64; WORDS]>),
}

/// Bits as a file holds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// None is set.
    Zeros,
    /// All are set, and none lies behind the end of the bitmap: QEMU would set those, too, and show
    /// them once the disk grows.
    Ones,
    /// Eight to a byte, the lowest bit first.
    Bytes(Vec<u8>),
}

impl Chunk {
    fn word(&self, index: usize) -> u64 {
        match self {
            Self::Ones => u64::MAX,
            Self::Mixed(words) => words[index],
        }
    }

    fn words(&mut self) -> &mut [u64; WORDS] {
        if *self == Self::Ones {
            *self = Self::Mixed(Box::new([u64::MAX; WORDS]));
        }
        match self {
            Self::Mixed(words) => words,
            Self::Ones => unreachable!("made mixed above"),
        }
    }
}

impl Bits {
    /// `len` bits, none of which is set.
    pub fn new(len: u64) -> Self {
        let chunks = BTreeMap::new();
        Self { len, chunks }
    }

    /// Number of bits.
    pub fn total(&self) -> u64 {
        self.len
    }

    /// Number of bits that are set.
    pub fn count(&self) -> u64 {
        let count = |chunk: &Chunk| match chunk {
            Chunk::Ones => CHUNK_BITS,
            Chunk::Mixed(words) => words.iter().map(|word| u64::from(word.count_ones())).sum(),
        };
        self.chunks.values().map(count).sum()
    }

    /// Sets the bits of a range, as far as they exist.
    pub fn set(&mut self, range: Range<u64>) {
        let end = range.end.min(self.len);
        let mut at = range.start;
        while at < end {
            let (index, start) = (at / CHUNK_BITS, at % CHUNK_BITS);
            let stop = CHUNK_BITS.min(end - index * CHUNK_BITS);
            if stop - start == CHUNK_BITS {
                self.chunks.insert(index, Chunk::Ones);
            } else {
                let chunk = self.chunks.entry(index).or_insert_with(empty);
                if *chunk != Chunk::Ones {
                    set_words(chunk.words(), start, stop);
                }
            }
            at = index * CHUNK_BITS + stop;
        }
    }

    /// Clears all bits.
    pub fn clear(&mut self) {
        self.chunks.clear();
    }

    /// Cuts bits off, or adds clear ones.
    pub fn resize(&mut self, len: u64) {
        self.len = len;
        let (index, keep) = (len / CHUNK_BITS, len % CHUNK_BITS);
        self.chunks.split_off(&(index + u64::from(keep > 0)));
        if let Some(last) = self.chunks.get_mut(&index) {
            let words = last.words();
            let word = (keep / 64) as usize;
            words[word] &= (1 << (keep % 64)) - 1;
            words[word + 1..].fill(0);
        }
    }

    /// Whether the bit at `bit` is set, and the first bit behind it that is not like it; `None` if
    /// all are.
    pub fn run_at(&self, bit: u64) -> (Option<u64>, bool) {
        self.run_before(bit, self.len)
    }

    /// As [`Bits::run_at`], looking no further than `end`.
    fn run_before(&self, bit: u64, end: u64) -> (Option<u64>, bool) {
        let first = self.chunks.get(&(bit / CHUNK_BITS));
        let value = first.is_some_and(|chunk| {
            let word = chunk.word((bit % CHUNK_BITS / 64) as usize);
            word >> (bit % 64) & 1 == 1
        });
        let next = if value {
            self.next_clear(bit, end)
        } else {
            self.next_set(bit)
        };
        (next.filter(|next| *next < end), value)
    }

    fn next_set(&self, bit: u64) -> Option<u64> {
        let (index, start) = (bit / CHUNK_BITS, bit % CHUNK_BITS);
        self.chunks.range(index..).find_map(|(&at, chunk)| {
            let start = if at == index { start } else { 0 };
            find_word(start, |word| chunk.word(word)).map(|found| at * CHUNK_BITS + found)
        })
    }

    fn next_clear(&self, bit: u64, end: u64) -> Option<u64> {
        let (mut index, mut start) = (bit / CHUNK_BITS, bit % CHUNK_BITS);
        while index * CHUNK_BITS < end {
            let clear = match self.chunks.get(&index) {
                None => Some(start),
                Some(Chunk::Ones) => None,
                Some(chunk) => find_word(start, |word| !chunk.word(word)),
            };
            if let Some(clear) = clear {
                return Some(index * CHUNK_BITS + clear);
            }
            (index, start) = (index + 1, 0);
        }
        None
    }

    /// The bits from `at` on that fill `bytes` bytes; those behind the end are clear. `at` is a
    /// multiple of 64, and `bytes` of 8.
    pub fn content(&self, at: u64, bytes: usize) -> Content {
        let end = self.len.min(at + bytes as u64 * 8);
        match self.run_before(at, end) {
            (None, false) => return Content::Zeros,
            (None, true) if end == at + bytes as u64 * 8 => return Content::Ones,
            _ => {}
        }
        let words = (0..bytes as u64 / 8).map(|n| {
            let bit = at + n * 64;
            let chunk = self.chunks.get(&(bit / CHUNK_BITS));
            chunk.map_or(0, |chunk| chunk.word((bit % CHUNK_BITS / 64) as usize))
        });
        Content::Bytes(words.flat_map(u64::to_le_bytes).collect())
    }

    /// Sets those bits from `at` on, a multiple of 64, that are set in `bytes`, as far as they
    /// exist.
    pub fn load(&mut self, at: u64, bytes: &[u8]) {
        let (words, _) = bytes.as_chunks::<8>();
        for (n, bytes) in words.iter().enumerate() {
            let bit = at + n as u64 * 64;
            let word = u64::from_le_bytes(*bytes);
            let word = match self.len.saturating_sub(bit) {
                rest @ 0..64 => word & ((1 << rest) - 1),
                _ => word,
            };
            if word != 0 {
                let chunk = self.chunks.entry(bit / CHUNK_BITS).or_insert_with(empty);
                chunk.words()[(bit % CHUNK_BITS / 64) as usize] |= word;
            }
        }
    }
}

fn empty() -> Chunk {
    Chunk::Mixed(Box::new([0; WORDS]))
}

/// Sets the bits `start..stop` of a chunk.
fn set_words(words: &mut [u64; WORDS], start: u64, stop: u64) {
    let mut at = start;
    while at < stop {
        let end = stop.min((at / 64 + 1) * 64);
        let ones = u64::MAX >> (64 - (end - at));
        words[(at / 64) as usize] |= ones << (at % 64);
        at = end;
    }
}

/// The first bit from `start` on of a chunk that is set in what `word` gives.
fn find_word(start: u64, word: impl Fn(usize) -> u64) -> Option<u64> {
    let first = (start / 64) as usize;
    (first..WORDS).find_map(|index| {
        let mut bits = word(index);
        if index == first {
            bits &= u64::MAX << (start % 64);
        }
        (bits != 0).then(|| index as u64 * 64 + u64::from(bits.trailing_zeros()))
    })
}
