//! Making a new image so that it survives a power cut from the moment its name is used.

use std::{
    fs::File,
    path::{Path, PathBuf},
    rc::Rc,
};

use crate::{
    error::{Error, Result},
    exec::Executor,
    qcow2::{self, CreateOptions},
    storage::{FileStorage, Storage},
};

/// Makes a qcow2 image in a new file, and makes the file and its name durable.
///
/// # Errors
/// One line on what failed; no file is left behind then, and one that existed is untouched.
pub async fn create_image(exec: &Executor, path: &Path, options: CreateOptions) -> Result<()> {
    let file = FileStorage::create(exec, path)?;
    let result = fill(exec, file, path, options).await;
    if result.is_err() {
        // The error that is reported says more than one about the removal would.
        let _ = std::fs::remove_file(path);
    }
    result
}

async fn fill(
    exec: &Executor,
    file: FileStorage,
    path: &Path,
    options: CreateOptions,
) -> Result<()> {
    let storage = Storage::File(Rc::new(file));
    qcow2::create(storage.clone(), options).await?;
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
