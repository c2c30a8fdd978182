//! How much there is to be copied, found out before the first byte is.

use strata_storage::error::IoResult;

use super::{Job, progress::Ahead, steps::Steps};

/// One look counts so many bytes of data at most: whole clusters, of any size.
const LOOK: u64 = 64 << 20;

/// Looks at the disk up to `end`, from where the job goes on, as a job does that copies it.
///
/// # Errors
/// The job is to stop. What cannot be looked at is left out: who copies it meets the error, too,
/// and does about it what the job's user wants.
pub(super) async fn count(job: &Job, steps: &impl Steps, end: u64) -> IoResult<Ahead> {
    let mut ahead = Ahead::new(end);
    let mut next = job.goes_on_from().min(end);
    while next < end {
        job.checkpoint().await?;
        let looked = steps.look(next, end, LOOK).await;
        next += match looked {
            Ok(piece) => {
                ahead.count(next, piece.copied());
                piece.len
            }
            Err(_) => LOOK.min(end - next),
        };
    }
    Ok(ahead)
}
