//! What is under way on the device thread, for people who look for what does not end.

pub use strata_exec::{Queue, TaskInfo};
pub use strata_format::under_way::{HeldLock, UnderWay};
pub use strata_graph::{DiskUnderWay, LayerUnderWay, inflight::RangeUnderWay};

/// What is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inflight {
    /// On each disk.
    pub disks: Vec<DiskUnderWay>,
    /// The tasks, the oldest first.
    pub tasks: Vec<TaskInfo>,
}
