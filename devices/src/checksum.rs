//! The checksum of tables that firmware and drives have.

/// What makes the sum of all bytes zero, where `bytes` hold 0 in its place.
pub fn checksum(bytes: &[u8]) -> u8 {
    let sum = bytes.iter().fold(0u8, |sum, &byte| sum.wrapping_add(byte));
    sum.wrapping_neg()
}
