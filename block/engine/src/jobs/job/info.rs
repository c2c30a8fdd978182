//! What clients are shown of a job.

use super::Job;
use crate::api::{BlockJobInfo, JobEnd, JobInfo};

impl Job {
    fn group_id(&self) -> Option<String> {
        let group = self.options.group.as_ref();
        group.map(|group| group.group_id().to_owned())
    }

    /// The payload of the events that say how far the job has come.
    pub fn end(&self) -> JobEnd {
        JobEnd {
            kind: self.options.kind,
            device: self.id().to_owned(),
            len: self.len.get(),
            offset: self.offset.get(),
            speed: self.rate.speed(),
        }
    }

    /// The job's entry in `query-block-jobs`.
    pub fn block_job_info(&self) -> BlockJobInfo {
        BlockJobInfo {
            kind: self.options.kind,
            device: self.id().to_owned(),
            len: self.len.get(),
            offset: self.offset.get(),
            busy: self.busy.get(),
            paused: self.paused.get(),
            speed: self.rate.speed(),
            io_status: self.io_status.get().name().to_owned(),
            ready: self.is_ready(),
            status: self.status.get(),
            auto_finalize: self.options.auto_finalize,
            auto_dismiss: self.options.auto_dismiss,
            group: self.group_id(),
            actively_synced: self.synced.get(),
            error: self.error(),
            progress: Some(self.progress.describe()),
        }
    }

    /// The job's entry in `query-jobs`.
    pub fn job_info(&self) -> JobInfo {
        JobInfo {
            id: self.id().to_owned(),
            kind: self.options.kind,
            status: self.status.get(),
            group: self.group_id(),
            current_progress: self.offset.get(),
            total_progress: self.len.get(),
            error: self.error(),
            progress: Some(self.progress.describe()),
        }
    }
}
