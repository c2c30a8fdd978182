//! What is under way within an image, for people who look for what does not end.

use std::ops::Range;

/// Parts of an image that tasks hold or wait for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnderWay {
    /// Bytes of the virtual disk that are being given another place in the file.
    pub claims: Vec<Range<u64>>,
    /// Tasks that wait until such a claim is released.
    pub waiting_for_claims: usize,
    /// The locks that are held.
    pub locks: Vec<HeldLock>,
}

/// A lock that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLock {
    /// What it protects.
    pub name: String,
    /// Tasks that wait for it.
    pub waiting: usize,
}
