//! What a layer, and a disk as a whole, says of a range: the values that reads, jobs, maps and
//! exports steer by.

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

/// What a disk holds in an extent, all its layers taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskExtent {
    /// Bytes of one kind; at least 1.
    pub len: u64,
    /// They are known to read as zeros, and take no space.
    pub zero: bool,
    /// The layer that says so: 1 is the top, 0 that no layer holds the range.
    pub depth: u32,
}
