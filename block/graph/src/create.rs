//! Making a new image so that it survives a power cut from the moment its name is used.

use std::{
    path::{Path, PathBuf},
    rc::Rc,
};

use strata_exec::Executor;
use strata_format::{
    qcow2::{self, CreateOptions, Preallocation},
    qed, size,
};
use strata_storage::{
    FileHints, Files, Storage,
    error::{Error, Result},
};

use crate::{Kept, chain};

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
    /// Files that exist lose what they hold, but for these; otherwise they are errors.
    replace: Option<&'a Kept>,
    /// What has been made, and its name, survive a crash of the host from now on.
    durable: bool,
    hints: FileHints,
}

/// Makes an image in a new file, and makes the file and its name durable.
///
/// # Errors
/// One line on what failed; no file is left behind then, and one that existed is untouched.
pub async fn create_image(
    exec: &Rc<Executor>,
    path: &Path,
    image: impl Into<NewImage>,
) -> Result<()> {
    create_image_in(&Files::Host, exec, path, image.into()).await
}

/// As [`create_image`], among `files`.
pub async fn create_image_in(
    files: &Files,
    exec: &Rc<Executor>,
    path: &Path,
    image: NewImage,
) -> Result<()> {
    let way = Way {
        files,
        replace: None,
        durable: true,
        hints: FileHints::default(),
    };
    make(exec, way, path, image).await.map(|_| ())
}

/// As [`create_image`], but in a file, a device or an export that may exist: what that holds is
/// lost, unless the options are refused, others use it or it is one of the `kept` ones. So it is
/// with an external data file. Returns the path of the image's file if that is new.
/// What has been made is durable only if `durable` asks for that: it takes its time. Files are
/// stored as the `hints` say, where their file system can do that.
///
/// # Errors
/// One line on what failed; no new file is left behind then.
pub async fn replace_image(
    exec: &Rc<Executor>,
    path: &Path,
    image: impl Into<NewImage>,
    durable: bool,
    kept: &Kept,
    hints: FileHints,
) -> Result<Option<PathBuf>> {
    let way = Way {
        files: &Files::Host,
        replace: Some(kept),
        durable,
        hints,
    };
    make(exec, way, path, image.into()).await
}

/// A file to make something in.
struct Place {
    file: Storage,
    /// Its path, if it is new.
    made: Option<PathBuf>,
}

impl Place {
    /// Removes the file, if it is new, after an error.
    fn give_up<T>(&self, way: Way<'_>, result: &Result<T>) {
        if let (Err(_), Some(path)) = (result, &self.made) {
            way.files.remove(path);
        }
    }
}

/// Makes an image and what it needs; returns the path of its file if that is new.
async fn make(
    exec: &Rc<Executor>,
    way: Way<'_>,
    path: &Path,
    image: NewImage,
) -> Result<Option<PathBuf>> {
    if let NewImage::Qcow2(options) = &image {
        options.check().map_err(|why| Error::Image {
            file: path.to_owned(),
            why,
        })?;
    }
    let place = way.place(exec, path).await?;
    let result = match data_file(path, &image) {
        Ok(None) => fill(exec, way, &place, image).await,
        Ok(Some(data)) => with_data_file(exec, way, &data, &place, image).await,
        Err(error) => Err(error),
    };
    place.give_up(way, &result);
    result.map(|()| place.made)
}

/// An external data file to be made.
struct NewDataFile {
    path: PathBuf,
    /// Bytes.
    size: u64,
    preallocation: Preallocation,
    /// It shows what it holds.
    raw: bool,
}

/// The external data file that the image is to have.
fn data_file(path: &Path, image: &NewImage) -> Result<Option<NewDataFile>> {
    let NewImage::Qcow2(options) = image else {
        return Ok(None);
    };
    let Some(data) = &options.data_file else {
        return Ok(None);
    };
    Ok(Some(NewDataFile {
        path: chain::resolve_data_file(path, &data.name)?,
        size: options.size.next_multiple_of(512),
        preallocation: options.preallocation,
        raw: data.raw,
    }))
}

/// Makes an external data file of zeros, and the image that names it. One that exists loses what it
/// holds if the way says so; otherwise it is an error.
async fn with_data_file(
    exec: &Rc<Executor>,
    way: Way<'_>,
    data: &NewDataFile,
    place: &Place,
    image: NewImage,
) -> Result<()> {
    refuse_same(way, &place.file, &data.path)?;
    let data_place = way.place(exec, &data.path).await?;
    let result = async {
        data_place.file.give_hints(way.hints).await?;
        fill_data_file(&data_place.file, data).await?;
        way.sync_directory(exec, &data_place).await?;
        fill(exec, way, place, image).await
    }
    .await;
    data_place.give_up(way, &result);
    result
}

/// A lock would keep an image from being its own data file, where there are any, but not say so.
fn refuse_same(way: Way<'_>, image: &Storage, data: &Path) -> Result<()> {
    let named = way.files.identity(data).ok();
    if named.is_none() || named != image.identity().ok() {
        return Ok(());
    }
    let name = data.display();
    Err(Error::Image {
        file: image.path().to_owned(),
        why: format!("its data file '{name}' is the image itself"),
    })
}

async fn fill_data_file(file: &Storage, data: &NewDataFile) -> Result<()> {
    data.preallocation.check_file(file)?;
    file.start_over(data.size).await?;
    if data.raw && file.has_fixed_len() {
        file.write_zeroes(0, data.size, true).await?;
    }
    data.preallocation.reserve(file, 0, data.size).await?;
    Ok(file.flush().await?)
}

async fn fill(exec: &Rc<Executor>, way: Way<'_>, place: &Place, image: NewImage) -> Result<()> {
    let file = &place.file;
    file.give_hints(way.hints).await?;
    match image {
        NewImage::Raw {
            size,
            preallocation,
        } => {
            preallocation.check_file(file)?;
            let size = size::in_sectors(size).map_err(|why| Error::Image {
                file: file.path().to_owned(),
                why,
            })?;
            file.start_over(size).await?;
            preallocation.reserve(file, 0, size).await?;
        }
        NewImage::Qcow2(options) => qcow2::create(file.clone(), options).await?,
        NewImage::Qed(options) => qed::create(file.clone(), options).await?,
    }
    file.flush().await?;
    way.sync_directory(exec, place).await
}

impl Way<'_> {
    /// The file at `path`, made if need be.
    async fn place(self, exec: &Rc<Executor>, path: &Path) -> Result<Place> {
        let Some(kept) = self.replace else {
            let file = self.files.create(exec, path)?;
            let made = Some(path.to_owned());
            return Ok(Place { file, made });
        };
        // Twice: this says more than a lock would, the other one is of what is really open.
        kept.check_path(path)?;
        let (file, made) = self.files.replace(exec, path, !self.durable).await?;
        let place = Place { file, made };
        let result = kept.check(&place.file);
        place.give_up(self, &result);
        result.map(|()| place)
    }

    /// Makes the name of a file durable.
    async fn sync_directory(self, exec: &Executor, place: &Place) -> Result<()> {
        if !self.durable || place.file.has_fixed_len() {
            return Ok(());
        }
        let path = place.made.as_deref().unwrap_or(place.file.path());
        self.files.sync_name(exec, path).await
    }
}
