//! [`Files`]: where files are found by their names, and made.

mod whole;

use std::{
    fs::File,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    rc::Rc,
    time::Duration,
};

use strata_exec::Executor;

use super::{
    DEFAULT_RECONNECT_DELAY, FileOptions, FileStorage, Identity, Storage, is_nbd_uri, is_unnamed,
};
#[cfg(feature = "sim")]
use crate::SimDirectory;
use crate::error::{Error, Result};

/// The host's files, or those of a simulation.
#[derive(Clone, Default)]
pub enum Files {
    /// The host's file system, and NBD servers.
    #[default]
    Host,
    /// Simulated files.
    #[cfg(feature = "sim")]
    Sim(Rc<SimDirectory>),
}

impl Files {
    /// Opens a file, or an export, as [`Storage::open`] does.
    ///
    /// # Errors
    /// One line on why it cannot be used.
    pub async fn open(
        &self,
        exec: &Rc<Executor>,
        path: &Path,
        options: FileOptions,
        reconnect_delay: Duration,
    ) -> Result<Storage> {
        match self {
            Self::Host => {
                let opened = Storage::open(exec, path, options, reconnect_delay).await;
                opened.map_err(|error| explain(path, error))
            }
            #[cfg(feature = "sim")]
            Self::Sim(directory) => directory.open(path).map(Storage::Sim),
        }
    }

    /// What `path` leads to now, as [`Identity::of`].
    ///
    /// # Errors
    /// The host's error: mostly that nothing is there.
    pub fn identity(&self, path: &Path) -> io::Result<Identity> {
        match self {
            Self::Host => Identity::of(path),
            #[cfg(feature = "sim")]
            Self::Sim(directory) => directory
                .find(path)
                .map(|file| file.identity())
                .ok_or_else(|| io::ErrorKind::NotFound.into()),
        }
    }

    /// Makes a new, empty file.
    ///
    /// # Errors
    /// The host's error; one that exists already is not touched.
    pub fn create(&self, exec: &Executor, path: &Path) -> Result<Storage> {
        match self {
            Self::Host => {
                let file = FileStorage::create(exec, path)?;
                Ok(Storage::File(Rc::new(file)))
            }
            #[cfg(feature = "sim")]
            Self::Sim(directory) => directory.create(path).map(Storage::Sim),
        }
    }

    /// Makes a file without a name, as [`FileStorage::create_unnamed`] does.
    ///
    /// # Errors
    /// The host's error.
    pub fn create_unnamed(
        &self,
        exec: &Executor,
        directory: &Path,
        path: &Path,
    ) -> Result<Storage> {
        match self {
            Self::Host => {
                let file = FileStorage::create_unnamed(exec, directory, path)?;
                Ok(Storage::File(Rc::new(file)))
            }
            #[cfg(feature = "sim")]
            Self::Sim(directory) => {
                let file = directory.create(path)?;
                directory.remove(path);
                Ok(Storage::Sim(file))
            }
        }
    }

    /// Opens what `path` names to make a new image in it, as [`FileStorage::replace`] does: a file,
    /// a device or an export.
    ///
    /// # Errors
    /// One line on why it cannot be used.
    pub async fn replace(
        &self,
        exec: &Rc<Executor>,
        path: &Path,
        no_flush: bool,
    ) -> Result<(Storage, Option<PathBuf>)> {
        match self {
            Self::Host if is_nbd_uri(path) => {
                let options = FileOptions {
                    no_flush,
                    ..FileOptions::default()
                };
                let export = Storage::open(exec, path, options, DEFAULT_RECONNECT_DELAY).await?;
                Ok((export, None))
            }
            Self::Host => {
                let (file, made) = FileStorage::replace(exec, path, no_flush)?;
                Ok((Storage::File(Rc::new(file)), made))
            }
            #[cfg(feature = "sim")]
            Self::Sim(directory) => match directory.open(path) {
                Ok(file) => Ok((Storage::Sim(file), None)),
                Err(_) => Ok((Storage::Sim(directory.create(path)?), Some(path.to_owned()))),
            },
        }
    }

    /// Removes a file that nobody needs. An error is not reported: what led here says more.
    pub fn remove(&self, path: &Path) {
        match self {
            Self::Host => {
                let _ = std::fs::remove_file(path);
            }
            #[cfg(feature = "sim")]
            Self::Sim(directory) => directory.remove(path),
        }
    }

    /// Makes a new file's name durable.
    ///
    /// # Errors
    /// The host's error.
    pub async fn sync_name(&self, exec: &Executor, path: &Path) -> Result<()> {
        let directory = directory_of(path);
        match self {
            Self::Host => {
                let synced = exec.helpers().run({
                    let directory = directory.clone();
                    move || File::open(directory).and_then(|directory| directory.sync_all())
                });
                synced.await.map_err(|source| Error::File {
                    what: "make durable",
                    file: directory,
                    source,
                })
            }
            #[cfg(feature = "sim")]
            Self::Sim(directory) => {
                directory.sync();
                Ok(())
            }
        }
    }
}

/// Says more of a file that is not there if its name is what QEMU takes for something else, or that
/// of a file without one.
fn explain(path: &Path, error: Error) -> Error {
    const PROTOCOLS: [&str; 12] = [
        "json", "file", "http", "https", "ftp", "ftps", "ssh", "rbd", "iscsi", "nfs", "gluster",
        "sheepdog",
    ];
    let name = path.to_string_lossy();
    let protocol = name.split_once(':').map(|(protocol, _)| protocol);
    match (&error, protocol) {
        (Error::File { .. }, _) if is_unnamed(path) => Error::Image {
            file: path.to_owned(),
            why: "was a temporary overlay, which has gone with the process that had it".to_owned(),
        },
        (Error::File { source, .. }, Some(protocol))
            if source.kind() == ErrorKind::NotFound && PROTOCOLS.contains(&protocol) =>
        {
            let why = "is not there, and what QEMU takes such names for is not supported: give the name \
                       of a file, or the URI of an NBD export (nbd://...)";
            Error::Image {
                file: path.to_owned(),
                why: why.to_owned(),
            }
        }
        _ => error,
    }
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory.to_owned(),
        _ => PathBuf::from("."),
    }
}
