//! A bitmap's table (specification, "Bitmap table").

use crate::qcow2::layout::{entry::OFFSET_MASK, geometry::Geometry};

/// In an entry without an offset: all bits are set.
const ALL_ONES: u64 = 1;

/// What an entry stands for: as many bits as fit a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// None is set.
    Zeros,
    /// All are set.
    Ones,
    /// They lie in the cluster at this offset.
    Data(u64),
}

/// Entries of the table of a bitmap of `bits` bits. Also one of no bits has a table.
pub fn len(bits: u64, geometry: &Geometry) -> u64 {
    bits.div_ceil(geometry.cluster_size() * 8).max(1)
}

/// Reads a table. That the clusters lie within the file is not judged.
///
/// # Errors
/// What is wrong with it.
pub fn parse(bytes: &[u8], geometry: &Geometry) -> Result<Vec<Part>, String> {
    let (words, _) = bytes.as_chunks::<8>();
    let parse = |word: &[u8; 8]| match u64::from_be_bytes(*word) {
        0 => Ok(Part::Zeros),
        ALL_ONES => Ok(Part::Ones),
        offset if offset & !OFFSET_MASK == 0 && geometry.in_cluster(offset) == 0 => {
            Ok(Part::Data(offset))
        }
        other => Err(format!("bitmap table entry {other:#x} is not valid")),
    };
    words.iter().map(parse).collect()
}

/// The table as it lies in the file.
pub fn to_bytes(parts: &[Part]) -> Vec<u8> {
    let word = |part: &Part| match part {
        Part::Zeros => 0,
        Part::Ones => ALL_ONES,
        Part::Data(offset) => *offset,
    };
    parts.iter().flat_map(|p| word(p).to_be_bytes()).collect()
}
