//! Copying in steps between guest requests: what a stream and a commit have in common.

use strata_exec::mem::SgList;
use strata_graph::Node;
use strata_storage::error::{IoError, IoResult};
use tracing::Instrument;

use super::{
    Job,
    pace::Pace,
    stride::{self, Stride},
};

/// Clusters that one step makes zero: an entry in a table for each.
pub(super) const ZERO_CLUSTERS: u64 = 1024;

/// What a step did.
pub(super) struct Step {
    /// Bytes of the disk that are done with.
    pub len: u64,
    /// Bytes that were copied.
    pub copied: u64,
}

/// Why a step failed: while it was doing what, `read` or `write`.
pub(super) type StepError = (&'static str, IoError);

pub(super) fn read(error: IoError) -> StepError {
    ("read", error)
}

pub(super) fn write(error: IoError) -> StepError {
    ("write", error)
}

/// A kind of job that copies a disk, part by part.
pub(super) trait Steps {
    /// The layer that is written.
    fn target(&self) -> &Node;

    /// Does the next part of the disk from `offset` on: passes over what need not be copied, or
    /// copies `chunk` bytes at most, with the help of `buffer`, which is as large.
    async fn step(&self, offset: u64, chunk: u64, buffer: &SgList) -> Result<Step, StepError>;
}

/// Does all steps up to `end`, no faster than the job may.
///
/// # Errors
/// [`IoError::Cancelled`], or the I/O error that ends the job.
pub(super) async fn take_all(job: &Job, steps: &impl Steps, end: u64) -> IoResult<()> {
    let cluster = steps.target().cluster_size();
    let most = usize::try_from(chunk(stride::MOST, 0, cluster));
    let buffer = SgList::zeroed(most.unwrap_or(usize::MAX));
    let (mut offset, mut pace, mut stride) = (0, Pace::default(), Stride::default());
    while offset < end {
        job.checkpoint().await?;
        let held = job.held_the_thread();
        stride.adapt(held);
        job.rest(Stride::rest_after(held)).await;
        let chunk = chunk(stride.bytes(), job.speed(), cluster);
        let span = tracing::trace_span!("step", job = job.id(), offset, length = chunk);
        match steps.step(offset, chunk, &buffer).instrument(span).await {
            Ok(Step { len, copied }) => {
                offset += len;
                job.charge(copied);
                pace.wrote(copied, steps.target().image().data_storage())
                    .await;
            }
            Err((operation, error)) => {
                if !job.on_io_error(operation, error)? {
                    offset = (offset + chunk).min(end);
                }
            }
        }
        job.set_offset(offset);
    }
    Ok(())
}

/// Bytes to copy in one step of `stride`: less where the speed limit would turn it into a long
/// pause. A multiple of the cluster size, one cluster at least.
pub(super) fn chunk(stride: u64, speed: u64, cluster: u64) -> u64 {
    let wanted = match speed {
        0 => stride,
        _ => (speed / 10).min(stride),
    };
    (wanted - wanted % cluster).max(cluster)
}
