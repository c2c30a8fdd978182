//! The largest size that the host lets a file have (`RLIMIT_FSIZE`, or what the file system
//! allows).

use std::{io, sync::Arc};

use rustix::process::{Resource, getrlimit};
use signal_hook::{consts::SIGXFSZ, flag};

use crate::error::NoRoom;

/// From now on a write past the process's file-size limit fails, as one on a full disk does;
/// without this the host ends the process. For the beginning of `main`.
///
/// # Errors
/// The host refuses to change what the signal does.
pub fn outlive_size_limit() -> io::Result<()> {
    // The write's error says it all; the flag is for nobody.
    flag::register(SIGXFSZ, Arc::default()).map(drop)
}

/// Whose limit it is that a file has met (EFBIG).
pub(super) fn in_the_way() -> NoRoom {
    match getrlimit(Resource::Fsize).current {
        Some(_) => NoRoom::SizeLimit,
        None => NoRoom::FileSystemLimit,
    }
}
