//! Vectored system calls on scatter lists.
// preadv2 and pwritev take raw addresses: guest memory must not become a slice.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
};

use smallvec::SmallVec;
use strata_exec::mem::SgList;

use super::direct;

/// Pieces per system call; the kernel's limit (UIO_MAXIOV) is 1024.
const MAX_PIECES: usize = 1024;

/// Pieces that no memory is allocated for.
const USUAL_PIECES: usize = 8;

/// How far a call came.
pub(super) enum Progress {
    /// All bytes.
    Done,
    /// So many bytes, then the end of the file.
    End(usize),
    /// So many bytes; somebody else has to do the rest.
    Until(usize),
}

impl Progress {
    /// What is left of a request for `data` at `offset`, and where that starts. Behind the end of a
    /// file there are zeros, and nothing is left.
    pub(super) fn rest(self, offset: u64, data: &SgList) -> Option<(u64, SgList)> {
        match self {
            Self::Done => None,
            Self::End(n) => {
                data.fill(n, data.len() - n, 0);
                None
            }
            Self::Until(n) => Some((offset + n as u64, data.slice(n, data.len() - n))),
        }
    }
}

/// In which way a file is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Only what is in the page cache.
    Nowait,
    /// Through the page cache.
    Cached,
    /// Past the page cache ([`direct`]).
    Direct,
}

impl Way {
    /// Whether a read that came as far as this byte, and not to its end, has met the file's end.
    pub(super) fn is_end(self, at: u64) -> bool {
        self == Self::Direct && direct::is_end(at)
    }
}

/// Reads `data.len()` bytes from `offset` on.
pub(super) fn read(file: &File, offset: u64, data: &SgList, way: Way) -> io::Result<Progress> {
    let nowait = way == Way::Nowait;
    let flags = if nowait { libc::RWF_NOWAIT } else { 0 };
    let mut done = 0;
    while done < data.len() {
        match transfer(file, offset, done, data, |fd, iov, count, at| {
            // SAFETY: `iov` points at `count` pieces that `data` keeps mapped during the call, and
            // that only copies touch (see `SgList`); the kernel writes nowhere else.
            unsafe { libc::preadv2(fd, iov, count, at, flags) }
        }) {
            Ok(0) => return Ok(Progress::End(done)),
            Ok(n) => done += n,
            Err(error) if nowait && error.raw_os_error() == Some(libc::EAGAIN) => {
                return Ok(Progress::Until(done));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if done < data.len() && way.is_end(offset + done as u64) {
            return Ok(Progress::End(done));
        }
    }
    Ok(Progress::Done)
}

/// Writes all of `data` at `offset`.
pub(super) fn write(file: &File, offset: u64, data: &SgList) -> io::Result<()> {
    let mut done = 0;
    while done < data.len() {
        match transfer(file, offset, done, data, |fd, iov, count, at| {
            // SAFETY: `iov` points at `count` pieces that `data` keeps mapped during the call; the
            // kernel only reads them.
            unsafe { libc::pwritev(fd, iov, count, at) }
        }) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits for the write-back that is under way and starts one of everything that is dirty now.
///
/// # Errors
/// Something could not be written back. This call takes the error: the next fdatasync of the same
/// open file knows nothing of it any more.
pub(super) fn write_back(file: &File) -> io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE;
    sync_range(file, 0, 0, flags)
}

/// Starts a write-back of everything that is dirty now, and waits for none.
///
/// # Errors
/// It could not be started. The next fdatasync reports that, too: only who waits takes an error.
pub(super) fn start_write_back(file: &File) -> io::Result<()> {
    sync_range(file, 0, 0, libc::SYNC_FILE_RANGE_WRITE)
}

/// Whether write-back of the file has failed since the last call for this open file. Does not wait.
///
/// # Errors
/// It has.
pub(super) fn take_write_back_error(file: &File) -> io::Result<()> {
    // Behind all that a file can have: there is nothing to wait for.
    sync_range(file, 1 << 62, 1, libc::SYNC_FILE_RANGE_WAIT_BEFORE)
}

fn sync_range(file: &File, offset: i64, len: i64, flags: u32) -> io::Result<()> {
    // SAFETY: the call touches no memory of this process.
    if unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, flags) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // Such a file, or such a kernel, does not have the call: it has seen nothing, then.
        Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::EINVAL | libc::ESPIPE) => Ok(()),
        _ => Err(error),
    }
}

fn transfer(
    file: &File,
    offset: u64,
    done: usize,
    data: &SgList,
    call: impl Fn(RawFd, *const libc::iovec, i32, i64) -> isize,
) -> io::Result<usize> {
    let pieces: SmallVec<[_; USUAL_PIECES]> = data
        .pieces_from(done)
        .take(MAX_PIECES)
        .map(|(base, len)| libc::iovec {
            iov_base: base.cast(),
            iov_len: len,
        })
        .collect();
    let at = offset
        .checked_add(done as u64)
        .and_then(|at| i64::try_from(at).ok())
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EFBIG))?;
    let count = i32::try_from(pieces.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let result = call(file.as_raw_fd(), pieces.as_ptr(), count, at);
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}
