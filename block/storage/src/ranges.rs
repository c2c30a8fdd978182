//! What the host does to ranges of a file by itself: copying and zeroing. These calls may take
//! long.

use std::{fs::File, io, os::unix::fs::FileExt};

use rustix::{
    fs::{FallocateFlags, copy_file_range, fallocate},
    io::Errno,
};

/// Copies from file to file; whether the host could do so. A source that ends early cannot be
/// copied so either: what lies behind its end reads as zeros.
pub(super) fn copy(
    source: &File,
    mut from: u64,
    target: &File,
    mut to: u64,
    len: u64,
) -> io::Result<bool> {
    let mut rest = len;
    while rest > 0 {
        let most = usize::try_from(rest).unwrap_or(usize::MAX);
        match copy_file_range(source, Some(&mut from), target, Some(&mut to), most) {
            Ok(0) => return Ok(false),
            Ok(n) => rest -= n as u64,
            Err(Errno::INTR) => {}
            Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => return Err(error.into()),
            Err(_) => return Ok(false),
        }
    }
    Ok(true)
}

/// How fallocate zeroes a range inside a file.
pub(super) fn zeroing(unmap: bool) -> FallocateFlags {
    let mode = if unmap {
        FallocateFlags::PUNCH_HOLE
    } else {
        FallocateFlags::ZERO_RANGE
    };
    mode | FallocateFlags::KEEP_SIZE
}

/// Makes a range inside the file read as zeros.
pub(super) fn zero(file: &File, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    match fallocate(file, zeroing(unmap), offset, len) {
        // Devices zero whole sectors of their own only.
        Err(Errno::OPNOTSUPP | Errno::INVAL) => write_zeros(file, offset, len),
        result => Ok(result?),
    }
}

/// For file systems without fallocate.
fn write_zeros(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let zeros = [0; 65536];
    let mut done = 0;
    while done < len {
        let n = (len - done).min(zeros.len() as u64);
        file.write_all_at(
            &zeros[..usize::try_from(n).unwrap_or(zeros.len())],
            offset + done,
        )?;
        done += n;
    }
    Ok(())
}
