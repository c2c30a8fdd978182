//! What a disk has to show, without asking any program: the content of each 4 KiB block follows
//! from its number and from what was written there last.

use std::collections::{HashMap, HashSet};

/// Bytes of a block, the unit of requests.
pub const BLOCK: usize = 4096;
/// Bytes of a cluster of the images.
pub const CLUSTER: u64 = 65536;
/// Blocks in a cluster.
const BLOCKS: u64 = CLUSTER / BLOCK as u64;

/// What was written to a block last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing, ever.
    Zero,
    /// The data of a layer of this number, as the chain was built.
    Layer(u32),
    /// The same byte throughout.
    Byte(u8),
}

/// What a load writes.
pub const LOAD: Content = Content::Layer(u32::MAX);

impl Content {
    /// Fills a block: a quarter is noise, the rest repeats, so that it compresses as files do.
    pub fn fill(self, block: u64, buffer: &mut [u8]) {
        let layer = match self {
            Content::Zero => return buffer.fill(0),
            Content::Byte(byte) => return buffer.fill(byte),
            Content::Layer(layer) => layer,
        };
        let mut random = Random::new(block << 32 | u64::from(layer));
        let (noise, rest) = buffer.split_at_mut(buffer.len() / 4);
        for word in noise.chunks_exact_mut(8) {
            word.copy_from_slice(&random.next().to_le_bytes());
        }
        let word = random.next().to_le_bytes();
        for place in rest.chunks_exact_mut(8) {
            place.copy_from_slice(&word);
        }
    }
}

/// A whole disk.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Bytes of the disk.
    pub size: u64,
    clusters: HashMap<u64, Content>,
    blocks: HashMap<u64, Content>,
}

impl Model {
    /// A disk that nothing was written to.
    pub fn new(size: u64) -> Model {
        Model {
            size,
            ..Model::default()
        }
    }

    /// A cluster, by its number, was written as a whole.
    pub fn write_cluster(&mut self, cluster: u64, content: Content) {
        self.clusters.insert(cluster, content);
    }

    /// A block, by its number, was written.
    pub fn write_block(&mut self, block: u64, content: Content) {
        self.blocks.insert(block, content);
    }

    /// A load wrote these.
    pub fn write_blocks(&mut self, blocks: &HashSet<u64>) {
        self.blocks
            .extend(blocks.iter().map(|&block| (block, LOAD)));
    }

    /// What a block shows.
    pub fn content(&self, block: u64) -> Content {
        let written = self.blocks.get(&block);
        let written = written.or_else(|| self.clusters.get(&(block / BLOCKS)));
        written.copied().unwrap_or(Content::Zero)
    }

    /// Bytes of the clusters that hold something.
    pub fn allocated(&self) -> u64 {
        self.clusters.len() as u64 * CLUSTER
    }
}

/// Numbers without a pattern, the same for the same seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts with a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// Puts a list in a random order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            let other = self.below(last as u64 + 1);
            list.swap(last, usize::try_from(other).unwrap_or(0));
        }
    }
}
