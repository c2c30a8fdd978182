//! Refcounts of every width from 1 to 64 bits within the bytes of a refcount block
//! (specification, "Host cluster management"). Widths below a byte fill bytes from the low bits up.

/// Largest refcount that fits a width of `1 << order` bits.
pub fn max(order: u32) -> u64 {
    u64::MAX >> (64 - (1u32 << order))
}

/// The refcount at `index` in the bytes of a block.
pub fn get(bytes: &[u8], order: u32, index: usize) -> u64 {
    if order < 3 {
        let per_byte = 8 >> order;
        let shift = (index % per_byte) << order;
        return (u64::from(bytes[index / per_byte]) >> shift) & max(order);
    }
    let len = 1 << (order - 3);
    bytes[index * len..(index + 1) * len]
        .iter()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// Sets the refcount at `index`; `value` is at most [`max`].
pub fn set(bytes: &mut [u8], order: u32, index: usize, value: u64) {
    debug_assert!(value <= max(order));
    if order < 3 {
        let per_byte = 8 >> order;
        let shift = (index % per_byte) << order;
        let byte = &mut bytes[index / per_byte];
        // Widths below 8 bits: all of it is in the lowest byte.
        let [mask, ..] = (max(order) << shift).to_le_bytes();
        let [value, ..] = (value << shift).to_le_bytes();
        *byte = *byte & !mask | value & mask;
        return;
    }
    let len = 1 << (order - 3);
    bytes[index * len..(index + 1) * len].copy_from_slice(&value.to_be_bytes()[8 - len..]);
}

#[cfg(test)]
mod tests;
