//! `block-commit` of a layer in the middle: what it holds goes down into a layer further below, on
//! which the layer above it lies then.
//!
//! The layers between are not changed, and hide what the base gets until the end. So a job that
//! dies at any point leaves a chain that reads the same bytes. What lies on the base besides sees
//! what is written to it: nobody can help that.

use std::rc::Rc;

use strata_exec::mem::SgList;
use strata_format::extent::ExtentKind;
use strata_graph::{Name, Node};
use strata_storage::error::Error;

use super::{
    Job, Relink, Work, layers,
    steps::{Piece, StepError, Steps, Todo, ZERO_CLUSTERS, read, take_all, write},
};

/// A commit, as the command that started it has resolved it.
pub(crate) struct Commit {
    /// What it holds goes down, and so does what the layers between it and the base hold.
    pub top: Rc<Node>,
    pub base: Rc<Node>,
    /// The layer above the top lies on the base in the end.
    pub relink: Relink,
    /// A node name that is the job's until it ends.
    pub _filter: Option<Name>,
}

impl Work for Commit {
    async fn run(&self, job: &Job) -> Result<(), Error> {
        layers::prepare_base(&self.base, &self.top).await?;
        let copy = CopyDown {
            top: self.top.clone(),
            base: self.base.clone(),
        };
        Ok(take_all(job, copy, self.len()).await?)
    }

    /// The base is durable before a header names it.
    async fn settle(&self, job: &Job) -> Result<(), Error> {
        self.base.flush().await?;
        self.relink.check(job.disk())
    }

    async fn write_header(&self, _job: &Job) -> Result<(), Error> {
        self.relink.upper().prepare_writing().await?;
        self.relink.write_header().await
    }

    async fn restore_header(&self, _job: &Job) -> Result<(), Error> {
        self.relink.restore_header().await
    }

    /// The layers that are not needed any more are closed.
    async fn finish(&self, job: &Job) -> Result<(), Error> {
        self.relink.follow(job.disk(), "committed").await?;
        self.finish_writing(job).await;
        Ok(())
    }

    async fn undo(&self, job: &Job) {
        self.finish_writing(job).await;
    }
}

impl Commit {
    /// Bytes to look at. Where the top hides what lies below its end, it does so in the base, too.
    pub fn len(&self) -> u64 {
        let hidden = self.base.size().min(self.relink.upper().size());
        self.top.size().max(hidden)
    }

    /// Makes read-only again what was made writable for the job.
    async fn finish_writing(&self, job: &Job) {
        for node in [self.relink.upper(), &self.base] {
            if !Rc::ptr_eq(node, &job.disk().root()) {
                layers::finish_writing(node).await;
            }
        }
    }
}

/// What a commit does with a part of the disk.
pub(super) struct CopyDown {
    pub top: Rc<Node>,
    pub base: Rc<Node>,
}

impl Steps for CopyDown {
    fn target(&self) -> &Node {
        &self.base
    }

    async fn look(&self, offset: u64, end: u64, chunk: u64) -> Result<Piece, StepError> {
        let walk = self.top.walk().above(Some(&self.base));
        // Nothing above the base is held while it is written.
        let found = walk.find(offset, end - offset).await.map_err(read)?;
        let (most, todo) = match found.kind {
            ExtentKind::Unallocated => (found.len, Todo::Pass),
            ExtentKind::Zero if self.base.has_zero_clusters() => {
                (ZERO_CLUSTERS * self.base.cluster_size(), Todo::Zero)
            }
            ExtentKind::Zero => (chunk, Todo::Zero),
            ExtentKind::Data { .. } | ExtentKind::Compressed => (chunk, Todo::Copy),
        };
        let len = found.len.min(most);
        Ok(Piece { offset, len, todo })
    }

    async fn carry_out(&self, piece: Piece, buffer: SgList) -> Result<(), StepError> {
        let Piece { offset, len, todo } = piece;
        if todo == Todo::Zero {
            let zeroed = self.base.write_zeroes(offset, len, true).await;
            return zeroed.map_err(write);
        }
        self.top.read(offset, buffer.clone()).await.map_err(read)?;
        self.base.write(offset, buffer).await.map_err(write)
    }
}
