//! Making a new image so that it survives a power cut from the moment its name is used.

use std::{
    path::{Path, PathBuf},
    rc::Rc,
};

use crate::{
    error::{Error, IoError, Result},
    exec::Executor,
    graph::chain,
    qcow2::{self, CreateOptions, Preallocation},
    qed,
    storage::{FileStorage, Files, Storage},
};

/// A new image's format, and how it is made.
#[derive(Debug, Clone)]
pub enum NewImage {
    /// Raw.
    Raw {
        /// Bytes, rounded up to 512.
        size: u64,
        /// What is allocated now; a raw file has no metadata to allocate.
        preallocation: Preallocation,
    },
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

/// How files are made.
#[derive(Clone, Copy)]
struct Way<'a> {
    files: &'a Files,
    /// Files that exist lose what they hold; otherwise they are errors.
    replace: bool,
    /// What has been made, and its name, survive a crash of the host from now on.
    durable: bool,
}

/// Makes an image in a new file, and makes the file and its name durable.
///
/// # Errors
/// One line on what failed; no file is left behind then, and one that existed is untouched.
pub async fn create_image(exec: &Executor, path: &Path, image: impl Into<NewImage>) -> Result<()> {
    create_image_in(&Files::Host, exec, path, image.into()).await
}

/// As [`create_image`], among `files`.
pub(crate) async fn create_image_in(
    files: &Files,
    exec: &Executor,
    path: &Path,
    image: NewImage,
) -> Result<()> {
    let way = Way {
        files,
        replace: false,
        durable: true,
    };
    make(exec, way, path, image).await.map(|_| ())
}

/// As [`create_image`], but in a file that may exist: what that holds is lost, unless the options
/// are refused or others use it. So it is with an external data file. Says whether the file is new.
/// What has been made is durable only if `durable` asks for that: it takes its time.
///
/// # Errors
/// One line on what failed; no new file is left behind then.
pub async fn replace_image(
    exec: &Executor,
    path: &Path,
    image: impl Into<NewImage>,
    durable: bool,
) -> Result<bool> {
    let way = Way {
        files: &Files::Host,
        replace: true,
        durable,
    };
    make(exec, way, path, image.into()).await
}

/// Makes an image and what it needs; says whether its file is new.
async fn make(exec: &Executor, way: Way<'_>, path: &Path, image: NewImage) -> Result<bool> {
    let (file, is_new) = way.file(exec, path)?;
    let result = match data_file(path, &image) {
        Ok(None) => fill(exec, way, file, path, image).await,
        Ok(Some(data)) => {
            let image = fill(exec, way, file, path, image);
            with_data_file(exec, way, &data, image).await
        }
        Err(error) => Err(error),
    };
    if result.is_err() && is_new {
        way.files.remove(path);
    }
    result.map(|()| is_new)
}

/// An external data file to be made.
struct NewDataFile {
    path: PathBuf,
    /// Bytes.
    size: u64,
    preallocation: Preallocation,
}

/// The external data file that the image is to have.
fn data_file(path: &Path, image: &NewImage) -> Result<Option<NewDataFile>> {
    let NewImage::Qcow2(options) = image else {
        return Ok(None);
    };
    let Some(data) = &options.data_file else {
        return Ok(None);
    };
    options.check().map_err(|why| Error::Image {
        file: path.to_owned(),
        why,
    })?;
    let size = options.size.next_multiple_of(512);
    Ok(Some(NewDataFile {
        path: chain::resolve_data_file(path, &data.name)?,
        size,
        preallocation: options.preallocation,
    }))
}

/// Makes an external data file of zeros, and what `image` makes that names it. One that exists
/// loses what it holds if the way says so; otherwise it is an error.
async fn with_data_file(
    exec: &Executor,
    way: Way<'_>,
    NewDataFile {
        path,
        size,
        preallocation,
    }: &NewDataFile,
    image: impl Future<Output = Result<()>>,
) -> Result<()> {
    let (data, is_new) = way.file(exec, path)?;
    let result = async {
        data.set_len(0).await?;
        data.set_len(*size).await?;
        preallocation.reserve(&data, 0, *size).await?;
        data.flush().await?;
        way.sync_folder(exec, path).await?;
        image.await
    }
    .await;
    if result.is_err() && is_new {
        way.files.remove(path);
    }
    result
}

async fn fill(
    exec: &Executor,
    way: Way<'_>,
    storage: Storage,
    path: &Path,
    image: NewImage,
) -> Result<()> {
    match image {
        NewImage::Raw {
            size,
            preallocation,
        } => {
            let size = size
                .checked_next_multiple_of(512)
                .ok_or(IoError::OutOfRange)?;
            storage.set_len(0).await?;
            storage.set_len(size).await?;
            preallocation.reserve(&storage, 0, size).await?;
        }
        NewImage::Qcow2(options) => qcow2::create(storage.clone(), options).await?,
        NewImage::Qed(options) => qed::create(storage.clone(), options).await?,
    }
    storage.flush().await?;
    way.sync_folder(exec, path).await
}

impl Way<'_> {
    /// The file at `path`, and whether it is new.
    fn file(self, exec: &Executor, path: &Path) -> Result<(Storage, bool)> {
        if self.replace {
            // Only on the host: simulations make new files.
            let (file, is_new) = FileStorage::replace(exec, path, !self.durable)?;
            Ok((Storage::File(Rc::new(file)), is_new))
        } else {
            Ok((self.files.create(exec, path)?, true))
        }
    }

    /// Makes the name of a new file durable.
    async fn sync_folder(self, exec: &Executor, path: &Path) -> Result<()> {
        if !self.durable {
            return Ok(());
        }
        self.files.sync_name(exec, path).await
    }
}
