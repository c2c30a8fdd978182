//! Opening, creating and locking a file, and opening it for writing after all.

use std::{
    cell::{Cell, RefCell},
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::fs::{SeekFrom, seek};
use strata_exec::Executor;

use super::{Aio, FileOptions, FileStorage, Flush, Handles};
use crate::{
    Access, direct,
    error::{Error, Result},
    holder,
    lock::{self, LockError},
    lost::Lost,
    unnamed, watch,
};

/// How long a lock is waited for that no process holds, and how long between two tries.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(5);

impl FileStorage {
    /// Opens an image file and locks it for what it is opened for. A directory, a socket or a pipe
    /// is refused.
    ///
    /// # Errors
    /// The host's error, that the file cannot hold an image, or that others use it in a way that
    /// does not go together ([`Error::Locked`]). For a lock that no process is found to hold this
    /// waits up to 2 seconds.
    pub fn open(exec: &Executor, path: &Path, options: FileOptions) -> Result<Self> {
        let failed = |source| Error::File {
            what: "open",
            file: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(!options.read_only)
            // A pipe would keep us waiting for its other end. It means nothing to files.
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(failed)?;
        let kind = file.metadata().map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let what = if kind.is_dir() {
                "a directory"
            } else {
                "not a regular file"
            };
            let why = format!("is {what}, not a disk image");
            return Err(Error::Image {
                file: path.to_owned(),
                why,
            });
        }
        let file = Self::new(exec, file, path, options).map_err(failed)?;
        file.lock_patiently(match options {
            FileOptions {
                force_share: true,
                read_only: true,
                ..
            } => Access::None,
            FileOptions {
                read_only: true, ..
            } => Access::Read,
            _ => Access::Write,
        })?;
        Ok(file)
    }

    /// As [`FileStorage::lock`], but waits a moment for a lock that no process holds as far as the
    /// system knows. After the death of a process with a ring the kernel goes on with what it has
    /// begun there, and keeps the files, with their locks, until that has ended.
    fn lock_patiently(&self, access: Access) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        let refused = match self.lock(access) {
            Err(error @ Error::Locked { holder: None, .. }) => error,
            result => return result,
        };
        let file = self.path.display();
        tracing::warn!(%file, "locked, though no process is found that has it open: waiting for what one that has died has left to the kernel");
        while Instant::now() < end {
            thread::sleep(PAUSE);
            let file = self.handles.borrow().locked().clone();
            if lock::change(&file, Access::None, access).is_ok() {
                self.access.set(access);
                return Ok(());
            }
        }
        Err(refused)
    }

    /// Makes a new, empty file, locked for writing.
    ///
    /// # Errors
    /// The host's error; one that exists already is not touched.
    pub fn create(exec: &Executor, path: &Path) -> Result<Self> {
        let failed = |source| Error::File {
            what: "create",
            file: path.to_owned(),
            source,
        };
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(failed)?;
        let file = Self::new(exec, file, path, FileOptions::default()).map_err(failed)?;
        file.lock(Access::Write)?;
        Ok(file)
    }

    /// Makes a new, empty file in `directory` that has no name, so that it goes with this process.
    /// Its flushes are ignored. `path` is what it is called
    /// ([`unnamed_path`](crate::unnamed_path)).
    ///
    /// # Errors
    /// The host's error.
    pub(crate) fn create_unnamed(exec: &Executor, directory: &Path, path: &Path) -> Result<Self> {
        let options = FileOptions {
            no_flush: true,
            ..FileOptions::default()
        };
        unnamed::create(directory)
            .and_then(|file| Self::new(exec, file, path, options))
            .map_err(|source| Error::File {
                what: "make a temporary file in",
                file: directory.to_owned(),
                source,
            })
    }

    /// Opens a file to make a new image in it, locked for writing: one that exists, with what it
    /// holds, or a new, empty one. The second value is the path of the file if it is new: where
    /// `path` is a symbolic link that led nowhere, that of what it leads to. With `no_flush`
    /// flushes are ignored.
    ///
    /// # Errors
    /// As [`FileStorage::open`].
    pub fn replace(
        exec: &Executor,
        path: &Path,
        no_flush: bool,
    ) -> Result<(Self, Option<PathBuf>)> {
        let options = FileOptions {
            no_flush,
            ..FileOptions::default()
        };
        let was_there = path.exists();
        let failed = |source| Error::File {
            what: "create",
            file: path.to_owned(),
            source,
        };
        if !was_there {
            let made = File::options()
                .append(true)
                .create(true)
                .custom_flags(libc::O_NONBLOCK)
                .open(path);
            made.map_err(failed)?;
        }
        let file = Self::open(exec, path, options)?;
        // Somebody else's may have come in between.
        let is_new = !was_there && file.is_empty();
        let path = is_new.then(|| path.canonicalize().unwrap_or_else(|_| path.to_owned()));
        Ok((file, path))
    }

    /// Locks the file for another use than so far. Where the file system has no locks, that is
    /// said once in the log, and nothing is locked.
    ///
    /// # Errors
    /// [`Error::Locked`]; the locks are as they were then.
    pub fn lock(&self, access: Access) -> Result<()> {
        let file = self.handles.borrow().locked().clone();
        self.locked(&file, lock::change(&file, self.access.get(), access))?;
        self.access.set(access);
        Ok(())
    }

    /// What a try to lock `file` comes to.
    fn locked(&self, file: &File, result: std::result::Result<(), LockError>) -> Result<()> {
        match result {
            Ok(()) => {}
            Err(LockError::Unsupported(error)) => {
                let file = self.path.display();
                tracing::warn!(%file, %error, "the file cannot be locked: nothing keeps other programs from it");
            }
            Err(LockError::Held { lock, byte }) => {
                return Err(Error::Locked {
                    file: self.path.clone(),
                    lock,
                    holder: holder::find(file, byte),
                });
            }
        }
        Ok(())
    }

    /// Opens the file, which was opened read-only, for writing, too, and locks it so. It is the
    /// same file, whatever its name leads to by now, and is never without a lock meanwhile.
    ///
    /// # Errors
    /// The host does not let it be written; others use it ([`Error::Locked`]), or may be writing it
    /// (`force_share`). It is open and locked as before then.
    pub(crate) fn make_writable(&self) -> Result<()> {
        if self.options.force_share {
            return Err(Error::Image {
                file: self.path.clone(),
                why: "has been opened with force-share=on and cannot be written: others may be \
                      writing it"
                    .to_owned(),
            });
        }
        let before = self.access.get();
        self.lock(Access::Write)?;
        let result = if self.is_read_only() {
            self.reopen_for_writing()
        } else {
            Ok(())
        };
        if result.is_err() {
            // That asks for less, which nobody stands against.
            self.lock(before)?;
        }
        result
    }

    fn reopen_for_writing(&self) -> Result<()> {
        let failed = |source| Error::File {
            what: "open",
            file: self.path.clone(),
            source,
        };
        let old = self.handles.borrow().file.clone();
        let file = watch::reopen(&old, OpenOptions::new().read(true).write(true));
        let new = file.and_then(|file| Handles::new(file, self.options.direct, false));
        let new = new.map_err(failed)?;
        let from = self.handles.borrow().locked().clone();
        let to = new.locked();
        self.locked(to, lock::hand_over(&from, to, self.access.get()))?;
        self.handles.replace(new);
        Ok(())
    }

    pub(super) fn new(
        exec: &Executor,
        file: File,
        path: &Path,
        options: FileOptions,
    ) -> io::Result<Self> {
        // `metadata` says 0 for a block device; the end is where seeking gets to.
        let len = seek(&file, SeekFrom::End(0))?;
        let is_device = file.metadata()?.file_type().is_block_device();
        Ok(Self {
            lost: Lost::default(),
            handles: RefCell::new(Handles::new(file, options.direct, options.read_only)?),
            path: path.to_owned(),
            options,
            access: Cell::new(Access::None),
            len: Cell::new(len),
            is_device,
            helpers: exec.helpers().clone(),
            ring: match options.aio {
                Aio::Threads => None,
                Aio::IoUring => exec.ring(),
            },
            turns: direct::Turns::new(),
            nowait_works: Cell::new(true),
            flush: Flush::default(),
        })
    }
}
