//! What a job says of its progress before it copies, while it does, and at the end.

use super::{
    Bench,
    live::{chain, stream},
};
use crate::api::{Cmd, JobPhase, JobProgress, JobStatus, Reply};

fn progress(bench: &Bench) -> Option<JobProgress> {
    let reply = bench.command(Cmd::QueryJobs).unwrap();
    let Reply::Jobs(jobs) = reply else {
        panic!("{reply:?}")
    };
    let mut jobs = jobs.into_iter();
    let job = jobs.find(|job| job.status != JobStatus::Concluded)?;
    job.progress
}

#[test]
fn a_merge_knows_how_much_it_will_copy_before_it_does() {
    let bench = Bench::new();
    let _disk = chain(&bench);
    let a = bench.path("A").display().to_string();
    // B and C hold 384 KiB, and D hides half of C.
    let expected = 256 << 10;
    bench.command(stream(Some(&a), 512 << 10)).unwrap();
    let mut phases = Vec::new();
    while let Some(progress) = progress(&bench) {
        if phases.last() != Some(&progress.x_phase) {
            phases.push(progress.x_phase);
        }
        match progress.x_phase {
            JobPhase::Counting => {
                assert_eq!((progress.x_to_copy, progress.x_copied), (None, 0));
            }
            _ => assert_eq!(progress.x_to_copy, Some(expected)),
        }
        if progress.x_copied == expected {
            assert_eq!(progress.x_seconds_left, Some(0));
        }
        bench.engine.poll();
    }
    assert!(
        phases.starts_with(&[JobPhase::Counting, JobPhase::Copying]),
        "{phases:?}"
    );
}
