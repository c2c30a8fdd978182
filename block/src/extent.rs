//! What a layer says of a range: the values that reads, jobs and maps steer by.

/// What one layer says of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Bytes of one kind; at least 1.
    pub len: u64,
    /// What they are.
    pub kind: ExtentKind,
}

/// What one layer holds in an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtentKind {
    /// Bytes in the layer's file, contiguous there.
    Data {
        /// Byte offset in the file.
        host_offset: u64,
    },
    /// Bytes that have to be unpacked.
    Compressed,
    /// Zeros, whatever lies below.
    Zero,
    /// What the layer below holds; zeros if there is none.
    Unallocated,
}
