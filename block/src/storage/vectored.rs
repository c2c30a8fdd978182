//! Vectored system calls on scatter lists.
#![allow(unsafe_code)] // preadv2 and pwritev take raw addresses: guest memory must not become a slice.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
};

use crate::mem::SgList;

/// Pieces per system call; the kernel's limit (UIO_MAXIOV) is 1024.
const MAX_PIECES: usize = 1024;

/// How far a call came.
pub(super) enum Progress {
    /// All bytes.
    Done,
    /// So many bytes, then the end of the file.
    End(usize),
    /// So many bytes; the rest is not in the page cache.
    WouldBlock(usize),
}

/// Reads `data.len()` bytes from `offset` on. With `nowait`, only what is in the page cache.
pub(super) fn read(file: &File, offset: u64, data: &SgList, nowait: bool) -> io::Result<Progress> {
    let flags = if nowait { libc::RWF_NOWAIT } else { 0 };
    let mut done = 0;
    while done < data.len() {
        let rest = data.slice(done, data.len() - done);
        match transfer(file, offset, done, &rest, |fd, iov, count, at| {
            // SAFETY: `iov` points at `count` pieces that `rest` keeps mapped during the call, and
            // that only copies touch (see `SgList`); the kernel writes nowhere else.
            unsafe { libc::preadv2(fd, iov, count, at, flags) }
        }) {
            Ok(0) => return Ok(Progress::End(done)),
            Ok(n) => done += n,
            Err(error) if nowait && error.raw_os_error() == Some(libc::EAGAIN) => {
                return Ok(Progress::WouldBlock(done));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Progress::Done)
}

/// Writes all of `data` at `offset`.
pub(super) fn write(file: &File, offset: u64, data: &SgList) -> io::Result<()> {
    let mut done = 0;
    while done < data.len() {
        let rest = data.slice(done, data.len() - done);
        match transfer(file, offset, done, &rest, |fd, iov, count, at| {
            // SAFETY: `iov` points at `count` pieces that `rest` keeps mapped during the call; the
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
pub(super) fn write_back(file: &File) {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: the call touches no memory of this process.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, flags) };
}

fn transfer(
    file: &File,
    offset: u64,
    done: usize,
    rest: &SgList,
    call: impl Fn(RawFd, *const libc::iovec, i32, i64) -> isize,
) -> io::Result<usize> {
    let pieces: Vec<_> = rest
        .pieces()
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
