//! Opening the external data file that a qcow2 header names.

use std::rc::Rc;

use strata_exec::Executor;
use strata_format::qcow2::DataFile;
use strata_storage::{
    FileOptions, Files, Storage,
    error::{Error, Result},
};

use super::{
    Format,
    chain::{ImageOptions, resolve_data_file},
    policy,
};

/// What messages call it.
const WHAT: &str = "data file";

/// Opens the external data file, one of `files`, of the image in `file`, which was opened as
/// `image` with `options`, for the same use and with the same locks; `None` if it has none.
///
/// # Errors
/// The header may not name that file; the file cannot be used.
pub(super) async fn open(
    exec: &Rc<Executor>,
    files: &Files,
    file: &Storage,
    image: FileOptions,
    options: &ImageOptions,
) -> Result<Option<Storage>> {
    if let Some(path) = &options.data_file
        && DataFile::is_used_by(file).await?
    {
        // The caller says so: that is not for the image to decide.
        let data = files.open(exec, path, image, options.reconnect_delay());
        return Ok(Some(data.await?));
    }
    let Some(DataFile { name, .. }) = DataFile::of(file).await? else {
        return match options.data_file {
            None => Ok(None),
            Some(_) => Err(Error::Image {
                file: file.path().to_owned(),
                why: "'data-file' can only be set for images with an external data file".into(),
            }),
        };
    };
    let refused = |why| Error::Image {
        file: file.path().to_owned(),
        why,
    };
    let path = resolve_data_file(file.path(), &name)?;
    let named = files.identity(&path).ok();
    if named.is_some() && named == file.identity().ok() {
        return Err(refused(format!(
            "its data file '{}' is the image itself",
            name.display()
        )));
    }
    // It is a raw file: whatever it holds would be shown.
    let raw = Some(Format::Raw);
    policy::check(
        file.path(),
        WHAT,
        &path,
        raw,
        options.backing_folders.as_deref(),
    )
    .map_err(refused)?;
    let data = files
        .open(exec, &path, image, options.reconnect_delay())
        .await
        .map_err(|error| refused(format!("its data file cannot be used: {error}")))?;
    Ok(Some(data))
}
