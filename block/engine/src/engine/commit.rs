//! `block-commit`: from the command to the job.

use std::rc::Rc;

use strata_graph::{GuestDisk, Hold, Node, Purpose, name_for};

use super::{Engine, find::check_on_top, refused};
use crate::{
    api::{CmdError, JobType, OnError},
    jobs::{Commit, Job, JobOptions},
};

/// A commit of a layer below the top of a disk.
#[derive(Debug, Clone)]
pub struct CommitSpec {
    /// The disk.
    pub device: String,
    /// The node name of the layer that is not needed any more then.
    pub top: String,
    /// That of the layer below it that gets what the top holds.
    pub base: String,
    /// The job's id.
    pub job_id: String,
    /// Bytes a second, 0 for no limit.
    pub speed: u64,
    /// What an I/O error does to the job.
    pub on_error: OnError,
    /// Finish without waiting for `job-finalize`.
    pub auto_finalize: bool,
    /// Forget the job when it has concluded.
    pub auto_dismiss: bool,
}

impl Engine {
    /// Starts a commit. No command of the monitor leads here yet.
    ///
    /// # Errors
    /// Why that cannot be; nothing has changed.
    pub fn start_commit(self: &Rc<Self>, spec: CommitSpec) -> Result<(), CmdError> {
        let CommitSpec {
            device, top, base, ..
        } = &spec;
        let missing = || {
            refused(format!(
                "Cannot find device='{device}' nor node-name='{device}'"
            ))
        };
        let (disk, layer) = self.find_layer(device).ok_or_else(missing)?;
        check_on_top(&disk, &layer)?;
        let options = JobOptions {
            id: self.opener.names().job(&spec.job_id)?,
            kind: JobType::Commit,
            speed: spec.speed,
            on_error: spec.on_error,
            auto_finalize: spec.auto_finalize,
            auto_dismiss: spec.auto_dismiss,
        };
        if disk.options().read_only {
            let id = &disk.options().id;
            return Err(refused(format!("Disk '{id}' is read-only")));
        }
        let layers: Vec<_> = disk.root().chain().collect();
        let upper = place_of(&layers, top)?;
        let lower = place_of(&layers, base)?;
        if upper == lower {
            return Err(refused("cannot commit an image into itself"));
        }
        if upper == 0 || lower < upper {
            let why =
                format!("Node '{base}' is not a backing image of '{top}' below the top layer");
            return Err(refused(why));
        }
        let (overlay, base) = (&layers[upper - 1], &layers[lower]);
        let held = layers[upper - 1..=lower].iter().cloned();
        let commit = Commit {
            hold: Hold::take(&disk, held, Purpose::Job("commit"))?,
            backing: name_for(overlay, base),
            overlay: overlay.clone(),
            top: layers[upper].clone(),
            base: base.clone(),
            files: self.opener.files().clone(),
        };
        self.begin_commit(disk, commit, options)
    }

    fn begin_commit(
        self: &Rc<Self>,
        disk: Rc<GuestDisk>,
        commit: Commit,
        options: JobOptions,
    ) -> Result<(), CmdError> {
        let checked = commit.check_base(&disk);
        checked.map_err(|error| refused(error.to_string()))?;
        let job = Job::new(self.exec.clone(), self.events.clone(), disk, options);
        job.set_len(commit.len());
        self.jobs.start(job, commit);
        Ok(())
    }
}

fn place_of(layers: &[Rc<Node>], name: &str) -> Result<usize, CmdError> {
    let place = layers.iter().position(|node| node.name() == name);
    place.ok_or_else(|| refused(format!("Can't find '{name}' in the backing chain")))
}
