//! What is under way on the device thread, for people who look for what does not end.

use std::ops::Range;

pub use strata_exec::{Queue, TaskInfo};

/// What is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inflight {
    /// On each disk.
    pub disks: Vec<DiskInflight>,
    /// The tasks, the oldest first.
    pub tasks: Vec<TaskInfo>,
}

/// What is under way on one disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskInflight {
    /// The disk's id.
    pub id: String,
    /// No request goes in: the graph is being edited, or waits to be.
    pub closed: bool,
    /// Requests that have gone in.
    pub inside: usize,
    /// Tasks that wait at the gate, to go in or until the others have left.
    pub at_gate: usize,
    /// Bytes that the requests work on.
    pub work: u64,
    /// Requests that wait until they may work.
    pub waiting_for_work: usize,
    /// Requests that have failed and wait for another try.
    pub held: usize,
    /// Its layers on which something is under way, from the top down.
    pub layers: Vec<LayerInflight>,
}

/// What is under way on one layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LayerInflight {
    /// The layer's name in the monitor.
    pub node_name: String,
    /// Readers, of a layer that takes no writes.
    pub readers: usize,
    /// The ranges in flight, the oldest first.
    pub ranges: Vec<RangeInflight>,
    /// Bytes of the disk that are being given another place in the file.
    pub claims: Vec<Range<u64>>,
    /// Tasks that wait until such a claim is released.
    pub waiting_for_claims: usize,
    /// The image's locks that are held, each with how many tasks wait for it.
    pub locks: Vec<(String, usize)>,
}

/// A range in flight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeInflight {
    /// Bytes of the disk.
    pub range: Range<u64>,
    /// It shares its range with nobody.
    pub exclusive: bool,
    /// It waits until an earlier one ends.
    pub waits: bool,
}
