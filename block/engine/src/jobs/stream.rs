//! `block-stream`: copies what a layer, mostly the top, lacks from the layers between it and the
//! base, then makes the base its backing file.
//!
//! A job that dies at any point leaves a chain that reads the same bytes, and one that is started
//! again finds what has been copied already and goes on.

use std::rc::Rc;

use strata_exec::{
    mem::{SgList, to_usize},
    yield_now,
};
use strata_format::extent::ExtentKind;
use strata_graph::{GuestDisk, Name, Node};
use strata_storage::error::{Error, IoResult};

use super::{
    Job, Relink, Work, layers,
    steps::{Piece, StepError, Steps, Todo, ZERO_CLUSTERS, read, take_all, write},
    stride,
};

/// Bytes that one step looks at: passing over what is there already costs next to nothing.
const LOOK: u64 = 256 << 20;

/// A stream, as the command that started it has resolved it.
pub(crate) struct Stream {
    /// Whether the layer that is merged into is its disk's top; otherwise it takes writes for the
    /// job only.
    pub is_top: bool,
    /// What that layer will lie on: nothing, if it shall stand alone.
    pub relink: Relink,
    /// A node name that is the job's until it ends.
    pub _filter: Option<Name>,
}

/// What the layers between top and base hold.
enum Between {
    Data,
    Zero,
    Nothing,
}

impl Work for Stream {
    /// Copies everything.
    async fn run(&self, job: &Job) -> Result<(), Error> {
        if self.relink.is_done() {
            return Ok(());
        }
        self.top().prepare_writing().await?;
        let copy = CopyUp {
            top: self.top().clone(),
            base: self.relink.base().cloned(),
        };
        Ok(take_all(job, copy, self.len()).await?)
    }

    /// Everything that the layers in between stand for becomes durable.
    async fn settle(&self, job: &Job) -> Result<(), Error> {
        if self.relink.is_done() {
            return Ok(());
        }
        self.top().flush().await?;
        self.relink.check(job.disk())
    }

    async fn write_header(&self, _job: &Job) -> Result<(), Error> {
        if self.relink.is_done() {
            return Ok(());
        }
        self.relink.write_header().await
    }

    async fn restore_header(&self, _job: &Job) -> Result<(), Error> {
        self.relink.restore_header().await
    }

    /// Makes the base what the top lies on. The layers in between are closed then.
    async fn finish(&self, job: &Job) -> Result<(), Error> {
        if self.relink.is_done() {
            return Ok(());
        }
        self.relink.follow(job.disk(), "merged").await?;
        self.finish_writing().await;
        Ok(())
    }

    async fn undo(&self, _job: &Job) {
        self.finish_writing().await;
    }
}

impl Stream {
    /// Bytes to look at: 0 if there is nothing to do.
    pub fn len(&self) -> u64 {
        if self.relink.is_done() {
            0
        } else {
            self.top().size()
        }
    }

    /// The layer that is merged into.
    fn top(&self) -> &Rc<Node> {
        self.relink.upper()
    }

    /// Makes the layer read-only again that was made writable for the job.
    async fn finish_writing(&self) {
        if !self.is_top {
            layers::finish_writing(self.top()).await;
        }
    }

    /// As [`Relink::check_base`], if there is anything to do.
    ///
    /// # Errors
    /// One line on why not.
    pub fn check_base(&self, disk: &GuestDisk) -> Result<(), Error> {
        if self.relink.is_done() {
            return Ok(());
        }
        self.relink.check_base(disk)
    }
}

/// What a stream does with a part of the disk.
struct CopyUp {
    top: Rc<Node>,
    base: Option<Rc<Node>>,
}

impl Steps for CopyUp {
    fn target(&self) -> &Node {
        &self.top
    }

    /// `offset` starts a subcluster.
    async fn look(&self, offset: u64, end: u64, chunk: u64) -> Result<Piece, StepError> {
        let piece = |len, todo| Ok(Piece { offset, len, todo });
        let look = LOOK.min(end - offset);
        let mine = self.top.extent(offset, look).await.map_err(read)?;
        if mine.kind != ExtentKind::Unallocated {
            return piece(mine.len, Todo::Pass);
        }
        let (len, between) = self.between(offset, mine.len).await.map_err(read)?;
        match between {
            Between::Nothing => piece(len, Todo::Pass),
            Between::Zero if self.top.has_zero_clusters() => {
                let most = ZERO_CLUSTERS * self.top.cluster_size();
                piece(len.min(most), Todo::Zero)
            }
            Between::Zero => piece(len.min(chunk), Todo::Fill),
            Between::Data => {
                let most = mine.len.min(chunk);
                piece(self.more_data(offset, len, most).await?, Todo::Copy)
            }
        }
    }

    async fn carry_out(&self, piece: Piece, buffer: SgList) -> Result<(), StepError> {
        let Piece { offset, len, todo } = piece;
        match todo {
            Todo::Copy => self.read(offset, &buffer).await.map_err(read)?,
            Todo::Fill => buffer.fill(0, buffer.len(), 0),
            Todo::Pass | Todo::Zero => {}
        }
        // The layers below do not change, so they were read before the range is held: the guest
        // waits for the write only. What it has written meanwhile is not overwritten.
        let _held = self.top.enter_exclusive(offset, len).await.map_err(write)?;
        let written = if todo == Todo::Zero {
            self.top.zero_if_unallocated(offset, len).await
        } else {
            self.top.write_if_unallocated(offset, buffer).await
        };
        written.map_err(write)
    }
}

impl CopyUp {
    /// How much data there is from `offset` on, up to `most` bytes, in whichever layers: `len`
    /// bytes are known to be.
    async fn more_data(&self, offset: u64, mut len: u64, most: u64) -> Result<u64, StepError> {
        while len < most {
            let next = self.between(offset + len, most - len).await;
            let (more, Between::Data) = next.map_err(read)? else {
                break;
            };
            len += more;
        }
        Ok(len.min(most))
    }

    /// Reads from the layers below, in pieces of [`stride::MOST`] where a cluster is larger.
    async fn read(&self, offset: u64, data: &SgList) -> IoResult<()> {
        let mut done = 0;
        while done < data.len() {
            let len = (data.len() - done).min(to_usize(stride::MOST));
            self.top
                .read_backing(offset + done as u64, data.slice(done, len))
                .await?;
            done += len;
            yield_now().await;
        }
        Ok(())
    }

    /// What the layers between top and base hold from `offset` on, in whole subclusters of the top.
    async fn between(&self, offset: u64, len: u64) -> IoResult<(u64, Between)> {
        let unit = self.top.granularity();
        let (run, kind) = self.between_exactly(offset, len).await?;
        if run == len {
            return Ok((run, kind));
        }
        match kind {
            // The last one is filled up with whatever follows.
            Between::Data => Ok((run.next_multiple_of(unit).min(len), kind)),
            _ if run >= unit => Ok((run - run % unit, kind)),
            // It is mixed.
            _ => Ok((unit.min(len), Between::Data)),
        }
    }

    async fn between_exactly(&self, offset: u64, len: u64) -> IoResult<(u64, Between)> {
        let base = self.base.as_ref();
        let walk = self.top.walk_below().above(base);
        let found = walk.find(offset, len).await?;
        let between = match found.kind {
            ExtentKind::Unallocated => Between::Nothing,
            // With nothing left below, what is not allocated reads as zeros anyway.
            ExtentKind::Zero if base.is_none() => Between::Nothing,
            ExtentKind::Zero => Between::Zero,
            ExtentKind::Data { .. } | ExtentKind::Compressed => Between::Data,
        };
        Ok((found.len, between))
    }
}
