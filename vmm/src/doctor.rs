//! `strata doctor`: what this host can do.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FallocateFlags, Mode, OFlags, fallocate, ioctl_ficlone, openat},
    io::Errno,
};
use strata_exec::{mem::to_usize, ring::Ring};

use crate::kvm::probe::{self, Unusable};

/// Bytes of the files that the checks make.
const TRIAL: u64 = 1 << 20;

/// Why this host cannot do its work; one line for people.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// KVM cannot run guests.
    #[error(transparent)]
    Kvm(#[from] Unusable),
    /// The directory cannot hold images.
    #[error("no file can be made in the directory '{}': {source}", dir.display())]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// The host's error.
        source: io::Error,
    },
}

/// Prints what was found, with `dir` for the file system's part.
///
/// # Errors
/// KVM is not usable, or else the directory is not.
pub fn run(dir: &Path) -> Result<(), DoctorError> {
    let kvm = probe::open();
    let directory = directory_line(dir);
    let mut lines = vec![
        format!("KVM: {}usable", if kvm.is_ok() { "" } else { "not " }),
        "I/O engine threads: works".to_owned(),
        format!("I/O engine io_uring: {}", io_uring()),
    ];
    lines.extend(directory.as_ref().ok().cloned());
    for line in lines {
        // Whoever closed standard output does not want to know.
        let _ = writeln!(io::stdout(), "{line}");
    }
    kvm?;
    directory
        .map(drop)
        .map_err(|source| DoctorError::Directory {
            dir: dir.to_owned(),
            source,
        })
}

/// Whether the kernel lets this process use io_uring: it is tried.
fn io_uring() -> String {
    let Err(error) = Ring::new() else {
        return "works".to_owned();
    };
    let switch = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    match switch.as_deref().map(str::trim) {
        Ok("2") => "switched off by kernel.io_uring_disabled".to_owned(),
        Ok("1") => "for privileged programs only (kernel.io_uring_disabled)".to_owned(),
        _ => format!("cannot be used: {error}"),
    }
}

/// What the directory's file system offers.
fn directory_line(dir: &Path) -> io::Result<String> {
    let holes = if punches_holes(dir)? {
        "punches holes"
    } else {
        "cannot punch holes"
    };
    let extents = if shares_extents(dir)? {
        "shares extents"
    } else {
        "cannot share extents"
    };
    Ok(format!("{}: {holes}, {extents}", dir.display()))
}

/// A file without a name in `dir`, with some bytes in it.
fn trial_file(dir: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = openat(rustix::fs::CWD, dir, flags, Mode::RUSR | Mode::WUSR)?;
    let mut file = File::from(file);
    file.write_all(&vec![1; to_usize(TRIAL)])?;
    Ok(file)
}

/// Whether space in the middle of a file can be freed.
fn punches_holes(dir: &Path) -> io::Result<bool> {
    let file = trial_file(dir)?;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    supported(fallocate(file.as_fd(), flags, 0, TRIAL / 2))
}

/// Whether two files can share their blocks until one of them is written.
fn shares_extents(dir: &Path) -> io::Result<bool> {
    let (from, to) = (trial_file(dir)?, trial_file(dir)?);
    supported(ioctl_ficlone(&to, &from))
}

/// Tells "cannot" from "went wrong".
fn supported(result: Result<(), Errno>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::INVAL | Errno::XDEV) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests;
