//! Requests of files by the executor's ring (`aio=io_uring`).
//!
//! A ring may be refused a call, or break in the middle. What it leaves undone is done by a helper
//! thread, whose answer counts: so each function here says how far it came.

use std::{fs::File, io, ops::Range, rc::Rc, sync::Arc};

use rustix::fs::FallocateFlags;
use strata_exec::{
    mem::SgList,
    ring::{Call, Ended, Ring},
};

use super::vectored::{Progress, Way};

/// Reads as [`super::vectored::read`] does.
///
/// # Errors
/// The host's error.
pub(super) async fn read(
    ring: &Rc<Ring>,
    file: &Arc<File>,
    offset: u64,
    data: &SgList,
    way: Way,
) -> io::Result<Progress> {
    let mut done = 0;
    while done < data.len() {
        let (at, rest) = (offset + done as u64, data.slice(done, data.len() - done));
        match ring.start(Call::Read(file.clone(), at, rest)).await {
            Ended::Answered(Ok(0)) => return Ok(Progress::End(done)),
            Ended::Answered(Ok(n)) => done += n.min(data.len() - done),
            ended => return undone(ended).map(|()| Progress::Until(done)),
        }
        if done < data.len() && way.is_end(offset + done as u64) {
            return Ok(Progress::End(done));
        }
    }
    Ok(Progress::Done)
}

/// Writes as [`super::vectored::write`] does.
///
/// # Errors
/// The host's error.
pub(super) async fn write(
    ring: &Rc<Ring>,
    file: &Arc<File>,
    offset: u64,
    data: &SgList,
) -> io::Result<Progress> {
    let mut done = 0;
    while done < data.len() {
        let (at, rest) = (offset + done as u64, data.slice(done, data.len() - done));
        match ring.start(Call::Write(file.clone(), at, rest)).await {
            Ended::Answered(Ok(0)) => return Ok(Progress::Until(done)),
            Ended::Answered(Ok(n)) => done += n.min(data.len() - done),
            ended => return undone(ended).map(|()| Progress::Until(done)),
        }
    }
    Ok(Progress::Done)
}

/// Changes a range by fallocate, in this mode; whether the ring could.
///
/// # Errors
/// The host's error.
pub(super) async fn allocate(
    ring: &Rc<Ring>,
    file: &Arc<File>,
    mode: FallocateFlags,
    range: Range<u64>,
) -> io::Result<bool> {
    let mode = i32::try_from(mode.bits()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let call = Call::Allocate(file.clone(), mode, range.start, range.end - range.start);
    match ring.start(call).await {
        Ended::Answered(Ok(_)) => Ok(true),
        ended => undone(ended).map(|()| false),
    }
}

/// Makes what has been written durable (fdatasync); whether the ring could.
///
/// # Errors
/// The host's error, whatever it is: another try would be answered as if nothing had been.
pub(super) async fn sync(ring: &Rc<Ring>, file: &Arc<File>) -> io::Result<bool> {
    match ring.start(Call::SyncData(file.clone())).await {
        Ended::Answered(Ok(_)) => Ok(true),
        Ended::Answered(Err(error)) if error.raw_os_error() != Some(libc::ECANCELED) => Err(error),
        // It has not been carried out.
        Ended::Answered(Err(_)) | Ended::NotStarted => Ok(false),
    }
}

/// Whether another way may succeed where a call has ended so.
///
/// # Errors
/// It has failed for good.
fn undone(ended: Ended) -> io::Result<()> {
    let Ended::Answered(Err(error)) = ended else {
        return Ok(());
    };
    match error.raw_os_error() {
        Some(
            libc::EAGAIN
            | libc::EBUSY
            | libc::ECANCELED
            | libc::EINTR
            | libc::EINVAL
            | libc::ENOMEM
            | libc::ENOSYS
            | libc::EOPNOTSUPP
            | libc::EPERM,
        ) => Ok(()),
        _ => Err(error),
    }
}
