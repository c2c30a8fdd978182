//! How many files the process may have open (`RLIMIT_NOFILE`).

use std::io;

use rustix::process::{Resource, getrlimit, setrlimit};

/// From now on the process may have as many files open as the host lets it: the soft limit, 1024 by
/// custom for the sake of `select`, becomes the hard one. A chain of images takes a descriptor for
/// each layer. For the beginning of `main`.
///
/// # Errors
/// The host refuses.
pub fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return Ok(());
    }
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}
