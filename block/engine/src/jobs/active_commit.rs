//! `block-commit` of a disk's top, while its guest writes to it: what it and the layers below it
//! hold goes down into a layer further below. Then that is the disk's top, or the chain stays as it
//! is.
//!
//! The top hides what the base gets until the end, so a job that dies at any point leaves a chain
//! that reads the same bytes. At the end the base is made durable and the top is emptied before the
//! guest writes to the base: from then on a chain that is opened from the old top shows the same
//! as one that is opened from the base, whatever happens.

use std::{ops::Range, rc::Rc};

use strata_exec::mem::SgList;
use strata_graph::{
    Edit, Mirror, Name, Node,
    commit::{drop_content, make_empty},
};
use strata_storage::error::{Error, IoResult};

use super::{
    Job, Relink, Work,
    commit::CopyDown,
    layers,
    lifecycle::Ending,
    progress::Ahead,
    steps::{Piece, StepError, Steps, Todo, take, take_all},
    stride,
};
use crate::api::JobPhase;

/// A commit of a disk's top, as the command that started it has resolved it.
pub(crate) struct ActiveCommit {
    pub top: Rc<Node>,
    pub base: Rc<Node>,
    /// The top lies on the base in the end, also once the base is the disk's top.
    pub relink: Relink,
    /// A node name that is the job's until it ends.
    pub _filter: Option<Name>,
    /// What the guest changes meanwhile.
    pub mirror: Rc<Mirror>,
}

impl Work for ActiveCommit {
    /// Copies all; then what the guest has changed meanwhile, again and again as long as that gets
    /// less quickly. What is left then is copied while the guest's changes go to both layers.
    async fn run(&self, job: &Job) -> Result<(), Error> {
        job.set_synced(false);
        layers::prepare_base(&self.base, &self.top).await?;
        job.disk().set_mirror(Some(self.mirror.clone()));
        let copy = CopyDown {
            top: self.top.clone(),
            base: self.base.clone(),
        };
        take_all(job, copy, self.len()).await?;
        job.progress().enter(JobPhase::CatchingUp);
        let mut before = u64::MAX;
        while job.error().is_none() && (1..=before / 2).contains(&self.mirror.dirty_bytes()) {
            before = self.mirror.dirty_bytes();
            self.copy_dirty(job).await?;
        }
        self.mirror.write_through();
        // Changes that have begun before are noted when they end.
        drop(job.disk().gate().drain().await);
        self.converge(job).await?;
        Ok(())
    }

    fn converges(&self) -> bool {
        true
    }

    /// Copies what the base has not taken from the guest.
    async fn converge(&self, job: &Job) -> IoResult<()> {
        while job.error().is_none() && self.mirror.dirty_bytes() > 0 {
            job.set_synced(false);
            self.copy_dirty(job).await?;
        }
        job.set_synced(true);
        Ok(())
    }

    async fn complete(&self, job: &Job) -> IoResult<()> {
        self.converge(job).await
    }

    async fn settle(&self, job: &Job) -> Result<(), Error> {
        self.base.flush().await?;
        if job.ending() == Some(Ending::TakeOver) {
            self.relink.check(job.disk())?;
        }
        Ok(())
    }

    /// The header of the top leads to the base: also once the base is the disk's top.
    async fn write_header(&self, job: &Job) -> Result<(), Error> {
        if job.ending() != Some(Ending::TakeOver) || self.relink.is_done() {
            return Ok(());
        }
        self.relink.write_header().await
    }

    async fn restore_header(&self, _job: &Job) -> Result<(), Error> {
        self.relink.restore_header().await
    }

    async fn finish(&self, job: &Job) -> Result<(), Error> {
        match job.ending() {
            Some(Ending::TakeOver) => self.take_over(job).await,
            Some(Ending::Empty) => self.empty(job).await,
            Some(Ending::Leave) | None => self.leave(job).await,
        }
    }

    async fn undo(&self, job: &Job) {
        job.disk().set_mirror(None);
        // Changes that are being made in both layers.
        drop(job.disk().gate().drain().await);
        layers::finish_writing(&self.base).await;
    }
}

impl ActiveCommit {
    /// Bytes to look at.
    pub fn len(&self) -> u64 {
        self.top.size()
    }

    /// Copies what is dirty now. What fails is tried again, or left out.
    async fn copy_dirty(&self, job: &Job) -> IoResult<()> {
        let dirty = DirtyParts {
            mirror: self.mirror.clone(),
            base: self.base.clone(),
            ranges: self.mirror.take_dirty(),
        };
        let end = dirty.ranges.last().map_or(0, |last| last.end);
        job.add_len(dirty.bytes_before(end));
        let mut ahead = Ahead::new(end);
        for range in &dirty.ranges {
            ahead.count(range.start, range.end - range.start);
        }
        job.progress().set_ahead(ahead);
        take(job, dirty, 0..end, job.offset()).await
    }

    /// Makes the base the disk's top. All is in it and durable, and the header of the old top leads
    /// to it (W5); now the old top is emptied, while no request is under way.
    async fn take_over(&self, job: &Job) -> Result<(), Error> {
        self.relink.check_base(job.disk())?;
        if !self.relink.is_done() {
            self.relink.follow(job.disk(), "committed").await?;
        }
        let refused = |error| self.relink.refused(error);
        let edit = Edit::default().pivot(job.disk(), &self.base, self.relink.hold());
        edit.check().map_err(refused)?;
        let drained = edit.drain().await;
        self.copy_the_rest().await?;
        self.base.flush().await?;
        // Others may be at the files meanwhile.
        self.relink.check_base(job.disk())?;
        self.top.record_all().await?;
        let dropped = drop_content(&self.top).await?;
        drained.apply().map_err(refused)?;
        job.disk().set_mirror(None);
        // The guest goes on meanwhile, and nothing is lost but room.
        if let Err(error) = self.top.image().free_dropped(dropped).await {
            tracing::warn!(%error, "a layer that was committed keeps room that it does not need");
        }
        layers::close([self.top.clone()], "committed").await;
        Ok(())
    }

    /// Gives up what the top holds: the base, which lies directly below it, has all of that.
    async fn empty(&self, job: &Job) -> Result<(), Error> {
        let drained = job.disk().gate().drain().await;
        self.copy_the_rest().await?;
        self.base.flush().await?;
        self.relink.check_base(job.disk())?;
        make_empty(&self.top).await?;
        job.disk().set_mirror(None);
        drop(drained);
        layers::finish_writing(&self.base).await;
        Ok(())
    }

    /// Lets the base be what it is: a copy of this moment. The chain stays.
    async fn leave(&self, job: &Job) -> Result<(), Error> {
        let drained = job.disk().gate().drain().await;
        self.copy_the_rest().await?;
        job.disk().set_mirror(None);
        drop(drained);
        self.base.flush().await?;
        layers::finish_writing(&self.base).await;
        Ok(())
    }

    /// Copies what the base has not taken since the client has decided. Nobody writes meanwhile.
    async fn copy_the_rest(&self) -> IoResult<()> {
        let buffer = SgList::zeroed(usize::try_from(stride::MOST).unwrap_or(usize::MAX));
        for range in self.mirror.take_dirty() {
            let copied = self.mirror.copy(range.clone(), &buffer).await;
            if let Err((_, error)) = copied {
                self.mirror.mark(range.start, range.end - range.start);
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Parts of the disk that the guest has changed, and that the base is to get once more.
struct DirtyParts {
    mirror: Rc<Mirror>,
    base: Rc<Node>,
    /// Bytes, in order.
    ranges: Vec<Range<u64>>,
}

impl Steps for DirtyParts {
    fn target(&self) -> &Node {
        &self.base
    }

    /// Only what is dirty counts.
    fn bytes_before(&self, offset: u64) -> u64 {
        let before = |range: &Range<u64>| range.end.min(offset).saturating_sub(range.start);
        self.ranges.iter().map(before).sum()
    }

    async fn look(&self, offset: u64, end: u64, chunk: u64) -> Result<Piece, StepError> {
        let next = self.ranges.partition_point(|range| range.end <= offset);
        let range = self.ranges.get(next).cloned().unwrap_or(end..end);
        if offset < range.start {
            let (len, todo) = (range.start - offset, Todo::Pass);
            return Ok(Piece { offset, len, todo });
        }
        let (len, todo) = (chunk.min(range.end - offset), Todo::Copy);
        Ok(Piece { offset, len, todo })
    }

    async fn carry_out(&self, piece: Piece, buffer: SgList) -> Result<(), StepError> {
        let range = piece.offset..piece.offset + piece.len;
        self.mirror.copy(range, &buffer).await.map(drop)
    }
}
