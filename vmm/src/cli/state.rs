//! Jobs that outlive the process.

use std::{path::PathBuf, rc::Rc};

use clap::Args;
use strata_block::engine::Engine;
use strata_storage::error::Result;

/// Options about jobs that an earlier process has left, and that a later one shall find.
#[derive(Debug, Clone, Default, Args)]
pub struct StateArgs {
    /// Record jobs in this directory, which must be there, so that they outlive this process: the
    /// next one that is given it and the same disks shows them in query-jobs, paused.
    /// Give each process a directory of its own.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Go on at once with the jobs that are recorded there.
    #[arg(long, requires = "state_dir")]
    resume_jobs: bool,
}

impl StateArgs {
    /// Has `engine`, whose disks are open, record jobs and go on with those of before. Says on
    /// standard error of which records nothing can be made.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn keep_jobs(&self, engine: &Rc<Engine>) -> Result<()> {
        let Some(directory) = &self.state_dir else {
            return Ok(());
        };
        for line in engine.keep_jobs_in(directory, self.resume_jobs)? {
            eprintln!("strata: {line}");
        }
        Ok(())
    }
}
