//! Copying what disks show into another disk, with several requests in flight.
//!
//! The sources are cut into pieces of one kind ([`plan`]); a number of workers take one after the
//! other. A worker reads its piece, waits for its turn if the target is to be written in order, and
//! writes what of it is not zeros ([`runs`]).

mod early;
mod offload;
mod plan;
mod runs;
mod salvage;
#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use strata_exec::{
    Executor, Queue, SpeedLimit,
    mem::{SgList, to_usize},
    sync::{Lock, WaitQueue, promise},
};
use strata_format::qcow2::Packed;
use strata_storage::error::{IoError, IoResult};

use crate::Node;
use early::EarlyWriteBack;
use plan::{Kind, Piece, Plan};
use runs::Run;

/// Bytes read at once: what is read is still in the processor's cache when it is written.
const CHUNK: u64 = 256 << 10;

/// A disk to copy, or the upper layers of one.
#[derive(Clone)]
pub struct Source {
    /// The top layer.
    pub top: Rc<Node>,
    /// The first layer that is not copied, nor those below it; `None` to copy them all.
    pub base: Option<Rc<Node>>,
}

/// How a disk is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyOptions {
    /// Pieces under way at a time; at least 1.
    pub requests: usize,
    /// Pieces are written as they come; otherwise in the order of the disk.
    pub any_order: bool,
    /// Zeros of so many bytes in a row are not written as data; 0 writes everything as data.
    pub sparse: u64,
    /// Data is written compressed. The target is qcow2 and holds nothing yet.
    pub compress: bool,
    /// What the target shows where nothing is written.
    pub untouched: Untouched,
    /// The host is asked to copy data from file to file, where it can and both are plain ones: its
    /// zeros are not looked for then.
    pub offload: bool,
    /// What cannot be read becomes zeros.
    pub salvage: bool,
    /// Bytes to write a second at most; 0 for no limit.
    pub speed: u64,
}

/// What a copy reports while it is under way. Bytes.
#[derive(Debug)]
pub enum Event<'a> {
    /// So much of all is done.
    Progress {
        /// Done.
        done: u64,
        /// All.
        total: u64,
    },
    /// A part of the disk could not be read and became zeros.
    Lost {
        /// Where.
        offset: u64,
        /// How much.
        len: u64,
        /// Why its start could not be read.
        error: &'a CopyError,
    },
}

/// What the target of a copy shows where nothing is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Untouched {
    /// Whatever it holds: zeros have to be written.
    Unknown,
    /// Zeros.
    Zeros,
    /// What the source shows in the layers that are not copied, for so many bytes; then zeros.
    Base(u64),
}

/// Why a copy ended early. Offsets are those of the target's disk, in bytes.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CopyError {
    /// Where the source's data lies could not be found out.
    #[error("error while reading block status at offset {offset}: {source}")]
    Status {
        /// Where.
        offset: u64,
        /// Why.
        source: IoError,
    },
    /// The source could not be read.
    #[error("error while reading at byte {offset}: {source}")]
    Read {
        /// Where.
        offset: u64,
        /// Why.
        source: IoError,
    },
    /// The target could not be written.
    #[error("error while writing at byte {offset}: {source}")]
    Write {
        /// Where.
        offset: u64,
        /// Why.
        source: IoError,
    },
}

/// Copies the sources, one behind the other, to the start of `target`, which is at least as long as
/// they are together. `report` is called with what there is to report.
///
/// Nothing is flushed: what is copied is durable after [`Node::flush`] of the target.
///
/// # Errors
/// The first read or write that failed. The others that were under way have ended then, and what
/// the target holds is undefined.
pub async fn copy(
    exec: &Rc<Executor>,
    sources: Vec<Source>,
    target: Rc<Node>,
    options: CopyOptions,
    report: impl Fn(Event<'_>) + 'static,
) -> Result<(), CopyError> {
    let chunk = CHUNK.next_multiple_of(target.cluster_size());
    let plan = Plan::new(sources, &target, &options, chunk);
    let early = EarlyWriteBack::new(exec, target.image().data_storage().clone());
    let copy = Rc::new(Copy {
        plan,
        planning: Lock::default(),
        target,
        options,
        turn: Turn::default(),
        failure: RefCell::default(),
        done: Cell::new(0),
        early,
        offload: Cell::new(options.offload && !options.compress),
        limit: SpeedLimit::new(exec, options.speed),
        report: Box::new(report),
    });
    let workers: Vec<_> = (0..options.requests.max(1))
        .map(|_| {
            let (finished, wait) = promise();
            let copy = copy.clone();
            exec.spawn_named(Queue::Guest, "a copy's worker", async move {
                let result = copy.work().await;
                copy.note(result);
                drop(copy);
                finished(());
            });
            wait
        })
        .collect();
    for worker in workers {
        worker.await;
    }
    copy.early.end().await;
    let failure = copy.failure.borrow_mut().take();
    failure.map_or(Ok(()), Err)
}

struct Copy {
    plan: Plan,
    /// Held while the next piece is looked for.
    planning: Lock,
    target: Rc<Node>,
    options: CopyOptions,
    turn: Turn,
    failure: RefCell<Option<CopyError>>,
    done: Cell<u64>,
    early: EarlyWriteBack,
    /// Whether the host is still asked to copy.
    offload: Cell<bool>,
    limit: SpeedLimit,
    report: Box<dyn Fn(Event<'_>)>,
}

/// Whose turn it is to write.
#[derive(Default)]
struct Turn {
    /// Pieces that have been handed out.
    taken: Cell<u64>,
    /// Number of the piece to be written next.
    next: Cell<u64>,
    changed: WaitQueue,
}

/// What has been read of a piece, as it will be written.
enum Content {
    Plain(SgList),
    /// The host is going to copy it.
    InFile(offload::Place),
    /// One cluster, compressed.
    Packed(Packed),
    Zeros,
}

impl Copy {
    /// Copies pieces until there are no more, or another worker has failed.
    async fn work(&self) -> Result<(), CopyError> {
        let mut buffer = SgList::empty();
        while let Some((number, piece)) = self.next_piece().await? {
            let content = match self.place(&piece).await {
                Some(place) => Content::InFile(place),
                None => self.read(&piece, &mut buffer).await?,
            };
            if !self.wait_for_turn(number).await {
                break;
            }
            self.write(&piece, content, &mut buffer).await?;
            self.turn.next.set(number + 1);
            self.turn.changed.wake_all();
            if piece.kind == Kind::Data {
                self.early.wrote(piece.len);
            }
            self.finished(piece.len);
            self.limit.pass(piece.len).await;
        }
        Ok(())
    }

    /// The next piece that has to be written, and its number.
    async fn next_piece(&self) -> Result<Option<(u64, Piece)>, CopyError> {
        let _planning = self.planning.lock().await;
        while self.failure.borrow().is_none() {
            let Some(piece) = self.plan.next().await? else {
                break;
            };
            let untouched = match piece.kind {
                Kind::Base => true,
                Kind::Zero => self.options.sparse > 0 && self.options.untouched == Untouched::Zeros,
                Kind::Data => false,
            };
            if !untouched {
                let number = self.turn.taken.get();
                self.turn.taken.set(number + 1);
                return Ok(Some((number, piece)));
            }
            self.finished(piece.len);
        }
        Ok(None)
    }

    fn finished(&self, len: u64) {
        self.done.set(self.done.get() + len);
        (self.report)(Event::Progress {
            done: self.done.get(),
            total: self.plan.total(),
        });
    }

    /// Reads a piece into `buffer`, which is made for the first one, and compresses it.
    async fn read(&self, piece: &Piece, buffer: &mut SgList) -> Result<Content, CopyError> {
        if piece.kind == Kind::Zero && self.options.sparse > 0 {
            return Ok(Content::Zeros);
        }
        let len = to_usize(piece.len);
        if buffer.len() < len {
            *buffer = SgList::zeroed(len);
        }
        let data = buffer.slice(0, len);
        match piece.kind {
            Kind::Zero => data.fill(0, len, 0),
            _ => self.read_or_salvage(piece.offset, &data).await?,
        }
        if !self.options.compress {
            return Ok(Content::Plain(data));
        }
        if self.options.sparse > 0 && data.is_zero() {
            return Ok(Content::Zeros);
        }
        if !self.fills_clusters(piece) {
            return Ok(Content::Plain(data));
        }
        let packed = self.target.image().pack(&data).await;
        Ok(packed.map_or(Content::Plain(data), Content::Packed))
    }

    /// Whether nothing else lies in the target's clusters that a piece is for: behind the end of
    /// what is copied, a longer target keeps what it holds.
    fn fills_clusters(&self, piece: &Piece) -> bool {
        let end = piece.offset + piece.len;
        end.is_multiple_of(self.target.cluster_size()) || end >= self.target.size()
    }

    /// Whether the piece may be written; otherwise another worker has failed.
    async fn wait_for_turn(&self, number: u64) -> bool {
        while self.failure.borrow().is_none() {
            if self.options.any_order || self.turn.next.get() == number {
                return true;
            }
            self.turn.changed.wait().await;
        }
        false
    }

    async fn write(
        &self,
        piece: &Piece,
        mut content: Content,
        buffer: &mut SgList,
    ) -> Result<(), CopyError> {
        let failed = |source| CopyError::Write {
            offset: piece.offset,
            source,
        };
        if let Content::InFile(place) = &content {
            if self.offload(piece, place).await.map_err(failed)? {
                return Ok(());
            }
            content = self.read(piece, buffer).await?;
        }
        self.write_content(piece, content).await.map_err(failed)
    }

    async fn write_content(&self, piece: &Piece, content: Content) -> IoResult<()> {
        match content {
            Content::InFile(_) => unreachable!("has been read"),
            Content::Packed(packed) => self.target.write_packed(piece.offset, packed).await,
            Content::Zeros => self.write_zeros(piece.offset, piece.len).await,
            // A cluster that does not get shorter.
            Content::Plain(data) if self.options.compress => {
                self.target.write(piece.offset, data).await
            }
            Content::Plain(data) => {
                for run in runs::of(&data, piece.offset, self.options.sparse) {
                    self.write_run(piece.offset, &data, run).await?;
                }
                Ok(())
            }
        }
    }

    async fn write_run(&self, offset: u64, data: &SgList, run: Run) -> IoResult<()> {
        let at = offset + run.start as u64;
        if run.zero {
            return self.write_zeros(at, run.len as u64).await;
        }
        self.target.write(at, data.slice(run.start, run.len)).await
    }

    async fn write_zeros(&self, offset: u64, len: u64) -> IoResult<()> {
        if self.options.untouched == Untouched::Zeros {
            return Ok(());
        }
        self.target.write_zeroes(offset, len, true).await
    }

    /// Notes an error for everyone, the first one only.
    fn note(&self, result: Result<(), CopyError>) {
        if let Err(error) = result {
            self.failure.borrow_mut().get_or_insert(error);
            self.turn.changed.wake_all();
        }
    }
}
