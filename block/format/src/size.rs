//! How many bytes a disk can have.

/// The largest number of bytes that hosts and other programs count with.
const MAX: u64 = i64::MAX as u64;

/// Rounds a disk's size up to whole sectors of 512 bytes.
///
/// # Errors
/// It is too large for any format.
pub fn in_sectors(size: u64) -> Result<u64, String> {
    size.checked_next_multiple_of(512)
        .filter(|&size| size <= MAX)
        .ok_or_else(|| format!("the disk size is too large: it must be between 0 and {MAX} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_sectors_below_the_largest_number() {
        let largest = (1 << 63) - 512;
        assert_eq!(in_sectors(1), Ok(512));
        assert_eq!(in_sectors(largest - 1), Ok(largest));
        for size in [largest + 1, MAX, MAX + 1, u64::MAX] {
            let why = in_sectors(size).unwrap_err();
            assert!(why.contains("between 0 and 9223372036854775807"), "{why}");
        }
    }
}
