//! Small files that are read and written as a whole, and are durable in between.
//!
//! A file that is written anew has, after a crash at any moment, its old content or its new one.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use strata_exec::Executor;

use super::{Files, directory_of};
use crate::error::{Error, Result};

/// What a file is called until it has the place of another one.
const UNFINISHED: &str = ".unfinished";

impl Files {
    /// The files in a directory whose names end with `ending`, in the order of their names. What
    /// [`Files::write_whole`] had not finished when its process was killed is removed.
    ///
    /// # Errors
    /// The host's error.
    pub async fn list(
        &self,
        exec: &Executor,
        directory: &Path,
        ending: &'static str,
    ) -> Result<Vec<PathBuf>> {
        match self {
            Self::Host => {
                let place = directory.to_owned();
                let listed = exec.helpers().run(move || list(&place, ending));
                listed.await.map_err(failed("read directory", directory))
            }
            #[cfg(feature = "sim")]
            Self::Sim(files) => Ok(files.list(directory, ending)),
        }
    }

    /// What a file holds, or its beginning if it is longer than `most` bytes: one byte more.
    ///
    /// # Errors
    /// The host's error.
    pub async fn read_whole(&self, exec: &Executor, path: &Path, most: u64) -> Result<Vec<u8>> {
        match self {
            Self::Host => {
                let place = path.to_owned();
                let read = exec.helpers().run(move || {
                    let mut bytes = Vec::new();
                    let file = OpenOptions::new()
                        .read(true)
                        // A pipe would keep us waiting for its other end.
                        .custom_flags(libc::O_NONBLOCK)
                        .open(place)?;
                    file.take(most + 1).read_to_end(&mut bytes)?;
                    Ok(bytes)
                });
                read.await.map_err(failed("read", path))
            }
            #[cfg(feature = "sim")]
            Self::Sim(files) => files
                .file(path)
                .map(|file| file.durable_bytes())
                .ok_or_else(|| failed("read", path)(io::ErrorKind::NotFound.into())),
        }
    }

    /// Makes a file that holds `bytes`, in the place of the one that has its name, if there is one.
    /// It is durable then.
    ///
    /// # Errors
    /// The host's error; the file is as it was then, or it is the new one.
    pub async fn write_whole(&self, exec: &Executor, path: &Path, bytes: Vec<u8>) -> Result<()> {
        match self {
            Self::Host => {
                let place = path.to_owned();
                let written = exec.helpers().run(move || write(&place, &bytes));
                written.await.map_err(failed("write", path))
            }
            #[cfg(feature = "sim")]
            Self::Sim(files) => {
                // A crash finds the old one here, and the new one there.
                strata_exec::yield_now().await;
                files.put(path, &bytes)?;
                strata_exec::yield_now().await;
                Ok(())
            }
        }
    }

    /// Removes a file, and makes that durable.
    ///
    /// # Errors
    /// The host's error, but for a file that is not there.
    pub async fn remove_for_good(&self, exec: &Executor, path: &Path) -> Result<()> {
        match self {
            Self::Host => {
                let place = path.to_owned();
                let removed = exec.helpers().run(move || match fs::remove_file(&place) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    _ => File::open(directory_of(&place))?.sync_all(),
                });
                removed.await.map_err(failed("remove", path))
            }
            #[cfg(feature = "sim")]
            Self::Sim(files) => {
                strata_exec::yield_now().await;
                files.remove(path);
                strata_exec::yield_now().await;
                Ok(())
            }
        }
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let file = path.to_owned();
    move |source| Error::File { what, file, source }
}

fn list(directory: &Path, ending: &str) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(ending) {
            found.push(path);
        } else if name.ends_with(&format!("{ending}{UNFINISHED}")) {
            fs::remove_file(path)?;
        }
    }
    found.sort();
    Ok(found)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = OsString::from(path);
    name.push(UNFINISHED);
    let unfinished = PathBuf::from(name);
    let written = write_new(&unfinished, bytes).and_then(|()| fs::rename(&unfinished, path));
    if let Err(error) = written {
        // The error that is reported says more.
        let _ = fs::remove_file(&unfinished);
        return Err(error);
    }
    File::open(directory_of(path))?.sync_all()
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests;
