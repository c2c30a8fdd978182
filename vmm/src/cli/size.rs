//! Sizes of memory.

const MIB: u64 = 1 << 20;
/// What the fixed areas below the kernel and a small kernel need.
const MIN: u64 = 4 * MIB;
/// More than any host has, and far from overflowing an address.
const MAX: u64 = 1 << 42;

/// Parses the size of a guest's memory: a number of MiB, or one with the suffix K, M, G or T.
///
/// # Errors
/// What is wrong with it.
pub fn parse_memory(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], MIB),
        Some((at, 'g' | 'G')) => (&text[..at], 1 << 30),
        Some((at, 't' | 'T')) => (&text[..at], 1 << 40),
        _ => (text, MIB),
    };
    let number: u64 = digits
        .parse()
        .map_err(|_| "a size is a number with the suffix M or G, such as 512M".to_owned())?;
    let size = number.saturating_mul(unit);
    match size {
        _ if size < MIN => Err("a guest needs at least 4M".into()),
        _ if size > MAX => Err("a guest has at most 4T".into()),
        _ if !size.is_multiple_of(MIB) => Err("memory comes in whole MiB".into()),
        _ => Ok(size),
    }
}
