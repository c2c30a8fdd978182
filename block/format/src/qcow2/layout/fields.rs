//! The integers of a structure in the file, by where they lie in it. All are big-endian.

/// The bytes of a structure.
#[derive(Clone, Copy)]
pub struct Fields<'a>(pub &'a [u8]);

/// # Panics
/// The bytes end before the field does.
impl Fields<'_> {
    /// The 16 bits at `at`.
    pub fn u16(self, at: usize) -> u16 {
        u16::from_be_bytes(self.bytes(at))
    }

    /// The 32 bits at `at`.
    pub fn u32(self, at: usize) -> u32 {
        u32::from_be_bytes(self.bytes(at))
    }

    /// The 64 bits at `at`.
    pub fn u64(self, at: usize) -> u64 {
        u64::from_be_bytes(self.bytes(at))
    }

    fn bytes<const N: usize>(self, at: usize) -> [u8; N] {
        std::array::from_fn(|i| self.0[at + i])
    }
}
