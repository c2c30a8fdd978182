//! Files without a name: they go when nobody has them open any more, however a process ends.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// No name below it leads to a file, whatever anybody does: it is none of a directory.
const NOWHERE: &str = "/dev/null";
/// Tries to find a name that nobody has.
const TRIES: u32 = 100;

/// What a file without a name is called. The name leads nowhere, for anybody.
pub fn unnamed_path(what: &str) -> PathBuf {
    Path::new(NOWHERE).join(what)
}

/// Whether `path` is one of [`unnamed_path`].
pub fn is_unnamed(path: &Path) -> bool {
    path.starts_with(NOWHERE) && path != Path::new(NOWHERE)
}

/// Makes a file in `directory` that has no name there, for this user alone.
///
/// # Errors
/// The host's error.
pub(super) fn create(directory: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    let made = options
        .clone()
        .custom_flags(libc::O_TMPFILE)
        .open(directory);
    match made {
        Err(error) if is_unsupported(&error) => create_and_unlink(directory, &options),
        made => made,
    }
}

/// Whether the file system has no files without a name. Kernels that do not know the flag take it
/// for an attempt to write to a directory.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL)
    )
}

/// The same where it takes two steps: a process that is killed between them leaves an empty file.
fn create_and_unlink(directory: &Path, options: &OpenOptions) -> io::Result<File> {
    let mut options = options.clone();
    options.create_new(true);
    for n in 0..TRIES {
        let path = directory.join(format!(".strata-{}-{n}", std::process::id()));
        match options.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(file) => {
                fs::remove_file(&path)?;
                return Ok(file);
            }
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests;
