//! [`Image`]: a file and its format, as those who administer it see them.

mod amend;
mod data;
mod resize;

use std::path::{Path, PathBuf};

use strata_exec::mem::SgList;
use strata_format::{
    backing::Backing,
    bitmap::{Bitmaps, DirtyBitmap},
    check::{CheckReport, Repair},
    qcow2::{DroppedTables, Packed, Qcow2},
    qed::Qed,
};
use strata_storage::{
    Access, Storage,
    error::{Error, IoError, IoResult, Result},
};

use super::Format;

/// How an image's bytes are laid out in its file.
enum Driver {
    Raw(Storage),
    Qcow2(Box<Qcow2>),
    Qed(Box<Qed>),
}

/// What an image held before it was emptied, as far as that takes room still.
pub struct Dropped(Option<DroppedTables>);

/// A file in its format: what is checked, resized, locked, closed. Requests go to the
/// [`Node`](super::Node) that stands for it.
pub struct Image {
    path: PathBuf,
    driver: Driver,
}

impl Image {
    pub(super) fn raw(file: Storage) -> Self {
        let path = file.path().to_owned();
        let driver = Driver::Raw(file);
        Self { path, driver }
    }

    pub(super) fn qcow2(path: &Path, image: Qcow2) -> Self {
        let (path, driver) = (path.to_owned(), Driver::Qcow2(Box::new(image)));
        Self { path, driver }
    }

    pub(super) fn qed(path: &Path, image: Qed) -> Self {
        let (path, driver) = (path.to_owned(), Driver::Qed(Box::new(image)));
        Self { path, driver }
    }

    /// The file's name as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its format.
    pub fn format(&self) -> Format {
        match self.driver {
            Driver::Raw(_) => Format::Raw,
            Driver::Qcow2(_) => Format::Qcow2,
            Driver::Qed(_) => Format::Qed,
        }
    }

    /// The qcow2 image, if it is one: for what only that format has.
    pub fn as_qcow2(&self) -> Option<&Qcow2> {
        match &self.driver {
            Driver::Qcow2(image) => Some(image),
            Driver::Raw(_) | Driver::Qed(_) => None,
        }
    }

    /// As [`Node::apply_snapshot`](super::Node::apply_snapshot).
    pub(super) async fn apply_snapshot(&self, id: &str) -> Result<()> {
        let Driver::Qcow2(image) = &self.driver else {
            let format = self.format();
            return Err(self.refused(format!(
                "Format driver '{format}' does not support internal snapshots"
            )));
        };
        image.apply_snapshot(id).await
    }

    /// Whether the image was not closed cleanly.
    pub fn is_dirty(&self) -> bool {
        match &self.driver {
            Driver::Raw(_) => false,
            Driver::Qcow2(image) => image.is_dirty(),
            Driver::Qed(image) => image.is_dirty(),
        }
    }

    /// Whether the image has stopped writing after a metadata write error (rule W6).
    pub fn is_stopped(&self) -> bool {
        match &self.driver {
            Driver::Raw(_) => false,
            Driver::Qcow2(image) => image.is_stopped(),
            Driver::Qed(image) => image.is_stopped(),
        }
    }

    /// The file.
    pub fn storage(&self) -> &Storage {
        match &self.driver {
            Driver::Raw(file) => file,
            Driver::Qcow2(image) => image.file(),
            Driver::Qed(image) => image.file(),
        }
    }

    /// The file that holds the data, where [`Node::extent`](super::Node::extent) says: with qcow2
    /// that can be an external data file.
    pub fn data_storage(&self) -> &Storage {
        match &self.driver {
            Driver::Raw(file) => file,
            Driver::Qcow2(image) => image.data_storage(),
            Driver::Qed(image) => image.file(),
        }
    }

    /// Checks the metadata in the file, which nothing may be writing to; `None` if the format has
    /// none. With `repair` what is found is put right, and the image has to be opened again: it has
    /// been opened for that ([`super::chain::ImageOptions::repair`]).
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub async fn check(&self, repair: Option<Repair>) -> IoResult<Option<CheckReport>> {
        Ok(match (&self.driver, repair) {
            (Driver::Raw(_), _) => None,
            (Driver::Qcow2(image), None) => Some(image.check().await?),
            (Driver::Qcow2(image), Some(what)) => Some(image.repair(what).await?),
            (Driver::Qed(image), None) => Some(image.check().await?),
            (Driver::Qed(image), Some(what)) => Some(image.repair(what).await?),
        })
    }

    /// The backing file as the header names it.
    pub fn backing_name(&self) -> Option<Backing> {
        match &self.driver {
            Driver::Raw(_) => None,
            Driver::Qcow2(image) => image.backing(),
            Driver::Qed(image) => image.backing(),
        }
    }

    /// Changes the backing file that the header names, after everything that it stands for has
    /// become durable. The graph in memory stays as it is.
    ///
    /// # Errors
    /// An I/O error, or that the name does not fit; the header is as it was then.
    pub async fn write_backing_name(&self, backing: Option<Backing>) -> Result<()> {
        match &self.driver {
            Driver::Raw(_) => unreachable!("a raw layer has nothing below it"),
            Driver::Qcow2(image) => image.set_backing(backing).await,
            Driver::Qed(image) => image.set_backing(backing).await,
        }
    }

    /// The bitmaps that the format has loaded, and stores when the image is closed.
    pub(super) fn bitmaps(&self) -> std::rc::Rc<Bitmaps> {
        match &self.driver {
            Driver::Qcow2(image) => image.bitmaps().clone(),
            Driver::Raw(_) | Driver::Qed(_) => std::rc::Rc::default(),
        }
    }

    /// Has the file say that its bitmaps are in use, before one of them is changed or records a
    /// change.
    ///
    /// # Errors
    /// The image is read-only, has stopped, or its file cannot be written.
    pub(super) async fn begin_bitmap_change(&self) -> IoResult<()> {
        match &self.driver {
            Driver::Qcow2(image) => image.begin_bitmap_change().await,
            Driver::Raw(_) | Driver::Qed(_) => Ok(()),
        }
    }

    /// Whether the image could store the bitmap; `None` if its format has no bitmaps.
    pub(super) fn check_new_bitmap(
        &self,
        bitmap: &DirtyBitmap,
    ) -> Option<std::result::Result<(), String>> {
        Some(self.as_qcow2()?.check_new_bitmap(bitmap))
    }

    /// Compresses one cluster for [`Node::write_packed`](super::Node::write_packed); `None` if it
    /// does not get shorter, or the format has no compressed clusters.
    pub async fn pack(&self, data: &SgList) -> Option<Packed> {
        match &self.driver {
            Driver::Raw(_) | Driver::Qed(_) => None,
            Driver::Qcow2(image) => image.pack(data).await,
        }
    }

    /// Gives up everything that the image holds, so that it shows what lies below. Nothing else
    /// uses it meanwhile.
    ///
    /// # Errors
    /// An I/O error, or corrupt tables; a raw image holds everything for ever.
    pub(crate) async fn make_empty(&self) -> IoResult<()> {
        match &self.driver {
            Driver::Raw(file) => Err(IoError::Unsupported {
                file: file.path().to_owned(),
                what: "emptying a raw image".to_owned(),
            }),
            Driver::Qcow2(image) => image.make_empty().await,
            Driver::Qed(image) => image.make_empty().await,
        }
    }

    /// As [`Image::make_empty`], but what was there may take its room still, until
    /// [`Image::free_dropped`] has freed it. Takes no longer than the image's first table is long.
    ///
    /// # Errors
    /// As [`Image::make_empty`].
    pub(crate) async fn drop_content(&self) -> IoResult<Dropped> {
        match &self.driver {
            Driver::Qcow2(image) => Ok(Dropped(Some(image.drop_all_tables().await?))),
            Driver::Raw(_) | Driver::Qed(_) => {
                self.make_empty().await?;
                Ok(Dropped(None))
            }
        }
    }

    /// Frees what the image held. Nothing else uses it meanwhile.
    ///
    /// # Errors
    /// An I/O error, or corrupt tables: room is lost then.
    pub async fn free_dropped(&self, dropped: Dropped) -> IoResult<()> {
        match (&self.driver, dropped.0) {
            (Driver::Qcow2(image), Some(tables)) => image.free_dropped(tables).await,
            _ => Ok(()),
        }
    }

    /// Has an image that was opened read-only be written: its files are opened and locked for that,
    /// and its format is notified.
    ///
    /// # Errors
    /// Its files cannot be written, or others use them; its format does not let it be written. Then
    /// it is as it was, and so are its locks.
    pub(super) async fn prepare_writing(&self) -> Result<()> {
        self.make_files_writable()?;
        let prepared = match &self.driver {
            Driver::Raw(_) => Ok(()),
            Driver::Qcow2(image) => image.prepare_writing().await,
            Driver::Qed(image) => image.prepare_writing().await,
        };
        if prepared.is_err() {
            self.lock(Access::Read)?;
        }
        prepared
    }

    fn make_files_writable(&self) -> Result<()> {
        let (data, file) = (self.data_storage(), self.storage());
        data.make_writable()?;
        let result = file.make_writable();
        if result.is_err() {
            data.lock(Access::Read)?;
        }
        result
    }

    /// Locks the files for another use than so far, as [`Storage::lock`] does.
    ///
    /// # Errors
    /// Others use a file in a way that does not go together with `access`.
    pub fn lock(&self, access: Access) -> Result<()> {
        self.data_storage().lock(access)?;
        self.storage().lock(access)
    }

    /// Makes everything durable, and writes what the format has put off. Nobody writes meanwhile.
    ///
    /// # Errors
    /// An I/O error, as of [`Node::flush`](super::Node::flush).
    pub async fn settle(&self) -> Result<()> {
        match &self.driver {
            Driver::Raw(file) => Ok(file.flush().await?),
            Driver::Qcow2(image) => image.close().await,
            Driver::Qed(image) => image.close().await,
        }
    }

    /// As [`Image::settle`]; then others may have the file.
    ///
    /// # Errors
    /// As [`Image::settle`]; the file is not kept from others then either.
    pub async fn close(&self) -> Result<()> {
        let result = self.settle().await;
        self.lock(Access::None)?;
        result
    }

    fn refused(&self, why: String) -> Error {
        let file = self.path.clone();
        Error::Image { file, why }
    }
}
