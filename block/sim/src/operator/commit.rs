//! Commits, while guests write to the top: of layers in the middle, and of the top itself.

use std::{cell::RefCell, path::PathBuf, rc::Rc};

use strata_block::api::{BlockCommit, BlockJobCancel, BlockJobInfo, Cmd, JobRef};
use strata_graph::{Format, GuestDisk, Node};

use super::{DISK, JOB, Operator};

/// A disk's top that has been committed, or may be: the disk is its base then. A chain that is
/// opened from it shows the same, until the disk itself gets another top or another size.
#[derive(Clone, Default)]
pub struct OldTop(Rc<RefCell<Option<Commit>>>);

struct Commit {
    top: (PathBuf, Format),
    base: PathBuf,
}

impl OldTop {
    /// A commit of the top begins.
    fn note(&self, top: &Node, base: &Node) {
        self.0.replace(Some(Commit {
            top: (top.path().to_owned(), top.format()),
            base: base.path().to_owned(),
        }));
    }

    /// It shows something else from now on than the disk does.
    pub fn forget(&self) {
        self.0.take();
    }

    /// The layer to open the disk from, if that is another one than its top.
    pub fn of(&self, disk: &GuestDisk) -> Option<(PathBuf, Format)> {
        let commit = self.0.borrow();
        let commit = commit.as_ref()?;
        (commit.base == disk.root().path()).then(|| commit.top.clone())
    }
}

impl Operator {
    /// Commits the top, and ends that in one way or the other.
    pub async fn commit_top(&self) {
        if self
            .engine
            .find_disk(DISK)
            .unwrap()
            .root()
            .backing()
            .is_none()
        {
            self.snapshot().await;
        }
        self.commit_from(0).await;
        self.let_finish().await;
    }

    /// Starts to commit a layer into one further down, where there are such layers: mostly the top,
    /// which does more.
    pub async fn commit(&self) {
        let top = if self.below(3) == 0 { 1 } else { 0 };
        self.commit_from(top).await;
    }

    /// Starts to commit the top (0), or a layer below it (1).
    async fn commit_from(&self, top: u64) {
        let root = self.engine.find_disk(DISK).unwrap().root();
        let layers: Vec<_> = root.chain().collect();
        let Some(most) = (layers.len() as u64)
            .checked_sub(top + 1)
            .filter(|most| *most > 0)
        else {
            return;
        };
        let top = if top == 0 {
            0
        } else {
            1 + self.below(most) as usize
        };
        let base = top + 1 + self.below((layers.len() - top - 1) as u64) as usize;
        let base_size = layers[base].size();
        if may_not_grow(&layers[base]).await && base_size < layers[top].size() {
            return;
        }
        // Such a commit of the top is refused: the disk would grow.
        if top == 0 && base_size > root.size() {
            return;
        }
        self.marks.set(self.marks.get() + 1);
        let between = layers[top + 1..base].iter();
        let between = between.map(|layer| layer.path().to_owned());
        self.changed_below.borrow_mut().extend(between);
        if top == 0 {
            self.old_top.note(&root, &layers[base]);
        }
        let on_error = self.on_error();
        let auto_finalize = self.below(2) == 0;
        self.must(Cmd::BlockCommit(Box::new(BlockCommit {
            job_id: Some(JOB.to_owned()),
            device: DISK.to_owned(),
            top_node: Some(layers[top].name().to_owned()),
            base_node: Some(layers[base].name().to_owned()),
            on_error: Some(on_error),
            auto_finalize: Some(auto_finalize),
            ..BlockCommit::default()
        })))
        .await;
    }

    /// Ends a job that is ready in one way or the other, or lets it go on for now.
    pub(super) async fn end_if_ready(&self, job: &BlockJobInfo) {
        if !job.ready {
            return;
        }
        self.marks.set(self.marks.get() + 1);
        let id = JOB.to_owned();
        let cmd = match self.below(8) {
            0..5 => Cmd::JobComplete(JobRef { id }),
            5 => Cmd::BlockJobCancel(BlockJobCancel {
                device: id,
                force: None,
            }),
            _ => return,
        };
        // One that is paused is not cancelled so.
        let _ = self.execute(cmd).await;
    }
}

/// Images of version 2 with internal snapshots have no other size.
async fn may_not_grow(layer: &Node) -> bool {
    match layer.image().as_qcow2() {
        Some(image) if image.version() == 2 => {
            let snapshots = image.snapshots().await;
            snapshots.is_ok_and(|snapshots| !snapshots.is_empty())
        }
        _ => false,
    }
}
