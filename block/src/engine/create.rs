//! Making a new image so that it survives a power cut from the moment its name is used.

use std::{
    fs::File,
    path::{Path, PathBuf},
    rc::Rc,
};

use crate::{
    error::{Error, IoError, Result},
    exec::Executor,
    qcow2::{self, CreateOptions},
    qed,
    storage::{FileStorage, Storage},
};

/// A new image's format, and how it is made.
#[derive(Debug, Clone)]
pub enum NewImage {
    /// Raw, with so many bytes, rounded up to 512.
    Raw(u64),
    /// qcow2.
    Qcow2(CreateOptions),
    /// QED.
    Qed(qed::CreateOptions),
}

impl From<CreateOptions> for NewImage {
    fn from(options: CreateOptions) -> Self {
        Self::Qcow2(options)
    }
}

/// Makes an image in a new file, and makes the file and its name durable.
///
/// # Errors
/// One line on what failed; no file is left behind then, and one that existed is untouched.
pub async fn create_image(exec: &Executor, path: &Path, image: impl Into<NewImage>) -> Result<()> {
    let file = FileStorage::create(exec, path)?;
    make(exec, file, true, path, image.into()).await
}

/// As [`create_image`], but in a file that may exist: what that holds is lost, unless the options
/// are refused or others use it. Says whether the file is new.
///
/// # Errors
/// One line on what failed; no new file is left behind then.
pub async fn replace_image(
    exec: &Executor,
    path: &Path,
    image: impl Into<NewImage>,
) -> Result<bool> {
    let (file, is_new) = FileStorage::replace(exec, path)?;
    make(exec, file, is_new, path, image.into()).await?;
    Ok(is_new)
}

async fn make(
    exec: &Executor,
    file: FileStorage,
    is_new: bool,
    path: &Path,
    image: NewImage,
) -> Result<()> {
    let result = fill(exec, file, path, image).await;
    if result.is_err() && is_new {
        // The error that is reported says more than one about the removal would.
        let _ = std::fs::remove_file(path);
    }
    result
}

async fn fill(exec: &Executor, file: FileStorage, path: &Path, image: NewImage) -> Result<()> {
    let storage = Storage::File(Rc::new(file));
    match image {
        NewImage::Raw(size) => {
            let size = size
                .checked_next_multiple_of(512)
                .ok_or(IoError::OutOfRange)?;
            storage.set_len(0).await?;
            storage.set_len(size).await?;
        }
        NewImage::Qcow2(options) => qcow2::create(storage.clone(), options).await?,
        NewImage::Qed(options) => qed::create(storage.clone(), options).await?,
    }
    storage.flush().await?;
    let folder = folder_of(path);
    let synced = exec.helpers().run({
        let folder = folder.clone();
        move || File::open(folder).and_then(|folder| folder.sync_all())
    });
    synced.await.map_err(|source| Error::File {
        what: "make durable",
        file: folder,
        source,
    })
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}
