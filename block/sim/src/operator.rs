//! Whoever sits at the monitor: snapshots, merges, other sizes, and changes of mind.

mod commit;
mod internal;
mod meddle;

use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
    rc::Rc,
};

use strata_block::{
    api::{
        BlockJobCancel, BlockJobInfo, BlockResize, BlockStream, BlockdevSnapshotSync, Cmd,
        CmdError, JobRef, OnError, Reply,
    },
    engine::Engine,
};
use strata_exec::{sync::promise, yield_now};
use strata_graph::{Format, GuestDisk, Node};
use strata_storage::SimDirectory;

pub use commit::OldTop;
pub use internal::{Live, LiveSnapshots};

use super::{
    guest::Allowed,
    journal,
    model::{Model, SECTOR},
    plan::{Random, path},
};

/// The disk's name.
pub const DISK: &str = "disk";
/// The job's name; there is one at a time.
const JOB: &str = "merge";

/// Layers at most: above, no more snapshots are taken.
const LAYERS: usize = 8;

/// Sectors of a disk at most and at least: outside, it does not grow or shrink any more.
const SECTORS: std::ops::Range<u64> = 64..10 << 10;

pub struct Operator {
    pub engine: Rc<Engine>,
    pub random: RefCell<Random>,
    /// Where new layers are made.
    pub directory: PathBuf,
    /// The files, where they are simulated.
    pub simulated: Option<Rc<SimDirectory>>,
    /// Number of the next layer.
    pub next_layer: Rc<Cell<usize>>,
    pub allowed: Rc<Cell<Allowed>>,
    pub marks: Rc<Cell<u64>>,
    /// Who has to know of other sizes.
    pub model: Rc<RefCell<Model>>,
    /// Whoever outlives this process has to know of them, too.
    pub writes_journal: bool,
    /// Layers between the two of a commit: what lies below them has changed.
    pub changed_below: Rc<RefCell<Vec<PathBuf>>>,
    /// The top that the disk had before it was committed.
    pub old_top: OldTop,
    /// Internal snapshots that were made in this run.
    pub live: LiveSnapshots,
    /// No more new work.
    pub stop: Rc<Cell<bool>>,
}

impl Operator {
    /// Gives commands at random moments until it is to stop.
    pub async fn work(&self) {
        while !self.stop.get() {
            for _ in 0..self.below(60) {
                yield_now().await;
            }
            if self.stop.get() {
                return;
            }
            match self.job().await {
                Some(job) => self.bother(&job).await,
                None => match self.below(9) {
                    8 => self.keep_or_give_up().await,
                    0 | 1 => self.snapshot().await,
                    2 | 3 => self.resize().await,
                    4 | 5 => self.commit().await,
                    _ => self.stream().await,
                },
            }
        }
    }

    fn below(&self, limit: u64) -> u64 {
        self.random.borrow_mut().below(limit)
    }

    async fn execute(&self, cmd: Cmd) -> Result<Reply, CmdError> {
        let (done, ended) = promise();
        self.engine.execute(cmd, Box::new(done));
        ended.await
    }

    async fn must(&self, cmd: Cmd) {
        let what = format!("{cmd:?}");
        let result = self.execute(cmd).await;
        if let Err(error) = result
            && self.allowed.get() == Allowed::Nothing
        {
            panic!("{what}: {error}");
        }
    }

    /// The job that exists, if one does.
    pub async fn job(&self) -> Option<BlockJobInfo> {
        match self.execute(Cmd::QueryBlockJobs).await {
            Ok(Reply::BlockJobs(jobs)) => jobs.into_iter().next(),
            other => panic!("{other:?}"),
        }
    }

    pub async fn snapshot(&self) {
        let disk = self.engine.find_disk(DISK).unwrap();
        if disk.root().chain().count() >= LAYERS {
            return;
        }
        self.marks.set(self.marks.get() + 1);
        let done = match self.below(8) {
            0 => self.work_on_what_is_away().await,
            1 | 2 => self.snapshot_onto_existing().await,
            _ => false,
        };
        if done {
            return;
        }
        let layer = self.next_layer.get();
        self.next_layer.set(layer + 1);
        let format = if self.below(3) == 0 { "qed" } else { "qcow2" };
        self.must(Cmd::BlockdevSnapshotSync(BlockdevSnapshotSync {
            device: Some(DISK.to_owned()),
            snapshot_file: path(&self.directory, layer).display().to_string(),
            format: Some(format.to_owned()),
            ..BlockdevSnapshotSync::default()
        }))
        .await;
    }

    /// Makes the disk smaller or larger.
    async fn resize(&self) {
        let disk = self.engine.find_disk(DISK).unwrap();
        let size = self.new_size(&disk);
        self.marks.set(self.marks.get() + 1);
        self.model.borrow_mut().resizing(size);
        let writes_journal = self.writes_journal;
        if writes_journal {
            journal::resizing(size);
        }
        let cmd = Cmd::BlockResize(BlockResize {
            device: Some(DISK.to_owned()),
            size,
            ..BlockResize::default()
        });
        let (allowed, model) = (self.allowed.clone(), self.model.clone());
        let old_top = self.old_top.clone();
        let (done, ended) = promise();
        // At once: guests send requests to what is new before this task goes on.
        let completed = move |result| {
            old_top.forget();
            match result {
                Ok(_) => {
                    if writes_journal {
                        journal::resized(size, &disk);
                    }
                    model.borrow_mut().resized(size);
                }
                Err(error) if !may_fail(allowed.get(), &error) => panic!("resize: {error}"),
                Err(_) => size_after_error(&disk, &mut model.borrow_mut()),
            }
            done(());
        };
        self.engine.execute(cmd, Box::new(completed));
        ended.await;
    }

    fn new_size(&self, disk: &GuestDisk) -> u64 {
        let root = disk.root();
        let now = root.size() / SECTOR;
        let other = now / 2 + self.below(now) + 1;
        let unit = if self.below(2) == 0 {
            1
        } else {
            root.cluster_size() / SECTOR
        };
        let sectors = other.next_multiple_of(unit);
        let shrinks = root.format() != Format::Qed;
        if !SECTORS.contains(&sectors) || (sectors < now && !shrinks) {
            return now * SECTOR;
        }
        sectors * SECTOR
    }

    /// Starts a merge onto one of the layers below, or onto nothing; now and then into a layer that
    /// is not the top.
    pub async fn stream(&self) {
        let disk = self.engine.find_disk(DISK).unwrap();
        let mut layers: Vec<_> = disk.root().chain().collect();
        if layers.len() > 2 && self.below(3) == 0 {
            layers.drain(..1 + self.below(layers.len() as u64 - 2) as usize);
        }
        let below = &layers[1..];
        if below.is_empty() {
            return;
        }
        let base = below.get(self.below(below.len() as u64 + 2) as usize);
        let mut cmd = self.merge_onto(base);
        if let Cmd::BlockStream(stream) = &mut cmd {
            layers[0].name().clone_into(&mut stream.device);
        }
        self.must(cmd).await;
    }

    fn merge_onto(&self, base: Option<&Rc<Node>>) -> Cmd {
        let on_error = self.on_error();
        Cmd::BlockStream(BlockStream {
            job_id: Some(JOB.to_owned()),
            device: DISK.to_owned(),
            base_node: base.map(|node| node.name().to_owned()),
            on_error: Some(on_error),
            auto_finalize: Some(self.below(2) == 0),
            ..BlockStream::default()
        })
    }

    fn on_error(&self) -> OnError {
        match self.below(3) {
            0 => OnError::Report,
            1 => OnError::Enospc,
            _ => OnError::Stop,
        }
    }

    /// Pauses, resumes, finalizes or cancels. The job may have come too far for it.
    async fn bother(&self, job: &BlockJobInfo) {
        if self.below(3) == 0 {
            self.end_if_ready(job).await;
        }
        let id = JOB.to_owned();
        let cmd = match self.below(8) {
            0 | 1 => Cmd::JobPause(JobRef { id }),
            2..4 => Cmd::JobResume(JobRef { id }),
            4..7 => Cmd::JobFinalize(JobRef { id }),
            _ => Cmd::BlockJobCancel(BlockJobCancel {
                device: id,
                force: Some(job.paused),
            }),
        };
        // Whether it fits is known only when it is there.
        let _ = self.execute(cmd).await;
    }

    /// Lets the job come to its end. One that cannot, as its files fail, is cancelled after a
    /// while.
    pub async fn let_finish(&self) {
        let mut tries = 0;
        while let Some(job) = self.job().await {
            let id = JOB.to_owned();
            self.end_if_ready(&job).await;
            tries += u32::from(job.paused);
            if tries > 100 && self.allowed.get() == Allowed::Anything {
                let _ = self
                    .execute(Cmd::BlockJobCancel(BlockJobCancel {
                        device: id,
                        force: Some(true),
                    }))
                    .await;
            } else {
                let _ = self
                    .execute(Cmd::JobResume(JobRef { id: id.clone() }))
                    .await;
                let _ = self.execute(Cmd::JobFinalize(JobRef { id })).await;
            }
            yield_now().await;
        }
    }
}

/// Whether a resize may fail so.
fn may_fail(allowed: Allowed, error: &CmdError) -> bool {
    allowed != Allowed::Nothing || error.desc == "Can't resize a v2 image which has snapshots"
}

/// A resize has failed. The disk shows its old size or its new one, and the file may have either.
fn size_after_error(disk: &GuestDisk, model: &mut Model) {
    let root = disk.root();
    if root.image().is_stopped() || root.format() == Format::Raw {
        model.perhaps_resized(root.size());
    } else {
        model.resized(root.size());
    }
}
