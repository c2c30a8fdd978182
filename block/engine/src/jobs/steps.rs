//! Copying in pieces between guest requests, several under way at a time: what a stream and a
//! commit have in common.
//!
//! The job's task looks at the disk, part by part, and starts a task for each piece that has to be
//! copied. While some read, others write. Pause, speed limit and cancel concern the task that
//! starts pieces; those under way come to their end before anything else is made of the job.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    ops::Range,
    rc::Rc,
};

use strata_exec::{
    Queue, TaskGroup,
    mem::{SgList, to_usize},
};
use strata_graph::Node;
use strata_storage::error::{IoError, IoResult};
use tracing::Instrument;

use super::{
    Job,
    job::Guest,
    pace::Pace,
    stride::{self, BesideGuest, Stride},
    survey,
};
use crate::api::JobPhase;

/// Clusters that one piece makes zero: an entry in a table for each.
pub(super) const ZERO_CLUSTERS: u64 = 1024;

/// Pieces under way at a time at most.
const MOST_PIECES: usize = 16;
/// Bytes of memory for them at most, but for one piece of the largest cluster.
const MEMORY: u64 = 16 << 20;

/// A part of the disk. Bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub offset: u64,
    /// At least 1.
    pub len: u64,
    pub todo: Todo,
}

impl Piece {
    /// Bytes of it that are written.
    pub fn copied(&self) -> u64 {
        match self.todo {
            Todo::Pass | Todo::Zero => 0,
            Todo::Fill | Todo::Copy => self.len,
        }
    }
}

/// What is to be done with a part of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Todo {
    /// Nothing.
    Pass,
    /// It becomes zeros without being written: an entry in a table for each cluster.
    Zero,
    /// Zeros are written to it.
    Fill,
    /// It is copied.
    Copy,
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
pub(super) trait Steps: 'static {
    /// The layer that is written.
    fn target(&self) -> &Node;

    /// How much of the work lies before a byte of the disk.
    fn bytes_before(&self, offset: u64) -> u64 {
        offset
    }

    /// What is to be done with the disk from `offset` on, before its byte `end`; `chunk` bytes are
    /// copied as one piece at most. Earlier pieces may be under way.
    async fn look(&self, offset: u64, end: u64, chunk: u64) -> Result<Piece, StepError>;

    /// Does it. What is copied goes through `buffer`, which is as long as the piece.
    async fn carry_out(&self, piece: Piece, buffer: SgList) -> Result<(), StepError>;
}

/// Counts what is to be copied up to `end`, and does all pieces, no faster than the job may. None
/// is under way afterwards.
///
/// # Errors
/// [`IoError::Cancelled`], or the I/O error that ends the job.
pub(super) async fn take_all(job: &Job, steps: impl Steps, end: u64) -> IoResult<()> {
    job.progress().enter(JobPhase::Counting);
    let ahead = survey::count(job, &steps, end).await?;
    job.progress().set_ahead(ahead);
    job.progress().enter(JobPhase::Copying);
    let from = job.goes_on_from().min(end);
    take(job, steps, from..end, 0).await
}

/// Does all pieces of a part of the disk, of which it is known how much is to be copied. The job
/// has looked at `done_before` bytes besides.
///
/// # Errors
/// As [`take_all`].
pub(super) async fn take(
    job: &Job,
    steps: impl Steps,
    part: Range<u64>,
    done_before: u64,
) -> IoResult<()> {
    let name = Rc::new(format!("a piece of job {}", job.id()));
    let copy = Rc::new(Copy {
        steps,
        pieces: TaskGroup::new(job.exec(), Queue::Job, name),
        buffers: RefCell::default(),
        unfinished: RefCell::default(),
        failed: RefCell::default(),
        written: Cell::new(0),
        done_before,
    });
    let end = part.end;
    let result = copy.run(job, part).await;
    copy.pieces.drain().await;
    job.progress().copied(copy.written.take());
    if result.is_ok() {
        copy.report_progress(job, end);
    }
    result
}

/// A copy that is under way.
struct Copy<S> {
    steps: S,
    pieces: TaskGroup,
    /// Memory that no piece uses.
    buffers: RefCell<Vec<SgList>>,
    /// Where the pieces start that have been begun and not been done.
    unfinished: RefCell<BTreeSet<u64>>,
    failed: RefCell<Vec<(Piece, StepError)>>,
    /// Bytes copied that the pace has not counted yet.
    written: Cell<u64>,
    /// Bytes that the job has looked at before.
    done_before: u64,
}

impl<S: Steps> Copy<S> {
    async fn run(self: &Rc<Self>, job: &Job, part: Range<u64>) -> IoResult<()> {
        let cluster = self.steps.target().cluster_size();
        let (mut next, end) = (part.start, part.end);
        let (mut pace, mut stride) = (Pace::default(), Stride::default());
        let mut again = Vec::new();
        loop {
            job.checkpoint_draining(&self.pieces).await?;
            self.report_progress(job, next);
            self.settle_failures(job, next, &mut again).await?;
            job.note_progress().await?;
            if job.is_paused() {
                continue;
            }
            let file = self.steps.target().image().data_storage();
            let written = self.written.take();
            job.progress().copied(written);
            pace.wrote(written, file).await;
            let held = job.held_the_thread().max(self.pieces.take_longest_poll());
            stride.adapt(held);
            job.rest(Stride::rest_after(held)).await;
            let guest = job.guest();
            let waits = next == end && again.is_empty() && !self.pieces.is_empty();
            if waits || self.is_full(job, guest, cluster) {
                self.pieces.wait_for_one().await;
                continue;
            }
            if let Some(piece) = again.pop() {
                self.start(job, piece);
                continue;
            }
            if next == end {
                if self.failed.borrow().is_empty() {
                    return Ok(());
                }
                continue;
            }
            let most = match guest {
                Guest::Rests => stride.bytes(),
                Guest::Works { under_way } => {
                    let beside = BesideGuest::new(job.disk(), under_way);
                    stride.bytes().min(beside.bytes)
                }
            };
            let chunk = chunk(most, job.speed(), cluster);
            match self.steps.look(next, end, chunk).await {
                Ok(piece) => {
                    next += piece.len;
                    job.progress().passed(next, piece.copied());
                    if piece.todo != Todo::Pass {
                        self.unfinished.borrow_mut().insert(piece.offset);
                        self.start(job, piece);
                    }
                }
                Err((operation, error)) => {
                    // In the order of the disk.
                    self.pieces.drain().await;
                    self.settle_failures(job, next, &mut again).await?;
                    if !job.is_paused() {
                        if job.on_io_error(operation, error)? {
                            job.wait_before_retry().await;
                        } else {
                            next = (next + chunk).min(end);
                        }
                    }
                }
            }
        }
    }

    /// Says that all is done up to the first piece that is not, or up to `next`.
    fn report_progress(&self, job: &Job, next: u64) {
        let first = self.unfinished.borrow().first().copied();
        let done = first.map_or(next, |first| first.min(next));
        job.set_offset(self.done_before + self.steps.bytes_before(done));
    }

    /// Whether no piece may be started now.
    fn is_full(&self, job: &Job, guest: Guest, cluster: u64) -> bool {
        let memory = to_usize(MEMORY) / buffer_len(cluster);
        let most = memory.clamp(1, MOST_PIECES);
        let most = match guest {
            Guest::Rests => most,
            Guest::Works { under_way } => most.min(BesideGuest::new(job.disk(), under_way).pieces),
        };
        self.pieces.len() >= most
    }

    /// Has a task carry out a piece.
    fn start(self: &Rc<Self>, job: &Job, piece: Piece) {
        let copied = piece.copied();
        job.charge(copied);
        let Piece { offset, len, .. } = piece;
        let span = tracing::trace_span!("step", job = job.id(), offset, length = len);
        let copy = self.clone();
        let carried_out = async move {
            let buffer = copy.take_buffer(copied);
            let data = buffer.slice(0, to_usize(copied));
            let result = copy.steps.carry_out(piece, data).await;
            copy.buffers.borrow_mut().push(buffer);
            match result {
                Ok(()) => {
                    copy.written.set(copy.written.get() + copied);
                    copy.unfinished.borrow_mut().remove(&offset);
                }
                Err(error) => copy.failed.borrow_mut().push((piece, error)),
            }
        };
        self.pieces.spawn(carried_out.instrument(span));
    }

    /// Memory for a piece of which so many bytes are copied.
    fn take_buffer(&self, copied: u64) -> SgList {
        if copied == 0 {
            return SgList::empty();
        }
        let kept = self.buffers.borrow_mut().pop();
        let wanted = buffer_len(self.steps.target().cluster_size());
        kept.filter(|kept| kept.len() >= wanted)
            .unwrap_or_else(|| SgList::zeroed(wanted))
    }

    /// Does about pieces that have failed what the job's user wants, in the order of the disk, once
    /// no other is under way. Those that are to be tried again go to `again`: after the first of
    /// them the job is paused, and nothing is said of the others; or it rests a while.
    ///
    /// # Errors
    /// The error that ends the job.
    async fn settle_failures(&self, job: &Job, next: u64, again: &mut Vec<Piece>) -> IoResult<()> {
        if self.failed.borrow().is_empty() {
            return Ok(());
        }
        self.pieces.drain().await;
        self.report_progress(job, next);
        let mut failed = self.failed.take();
        failed.sort_by_key(|(piece, _)| piece.offset);
        for (piece, (operation, error)) in failed {
            if job.is_paused() || job.on_io_error(operation, error)? {
                again.push(piece);
            } else {
                self.unfinished.borrow_mut().remove(&piece.offset);
            }
        }
        if !again.is_empty() {
            job.wait_before_retry().await;
        }
        Ok(())
    }
}

/// Bytes of memory for the largest piece there is.
fn buffer_len(cluster: u64) -> usize {
    to_usize(chunk(stride::MOST, 0, cluster))
}

/// Bytes to copy as one piece of `stride`: less where the speed limit would turn it into a long
/// pause. A multiple of the cluster size, one cluster at least.
pub(super) fn chunk(stride: u64, speed: u64, cluster: u64) -> u64 {
    let wanted = match speed {
        0 => stride,
        _ => (speed / 10).min(stride),
    };
    (wanted - wanted % cluster).max(cluster)
}
