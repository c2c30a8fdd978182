//! Where guest data lies: in the image's own file, or in an external data file (specification,
//! "External data file").
//!
//! Data in an external file lies at the offset that it has on the virtual disk. Its clusters are
//! not counted, and belong to the image as long as it is: there are no internal snapshots and no
//! compressed clusters beside it.
//!
//! A raw external file is an image of the disk in itself. So whatever changes the disk changes the
//! file; the tables only ever say where data is.

use std::ffi::{OsStr, OsString};

use crate::{
    error::{Error, IoResult, Result},
    mem::SgList,
    qcow2::{
        Qcow2,
        admin::open::read_header,
        layout::{
            geometry::{Geometry, GuestCluster, HostCluster, HostRun},
            header::{AUTOCLEAR_RAW_DATA, Header, Incompatible, MAX_BACKING_NAME},
            header_area::HeaderArea,
        },
    },
    storage::Storage,
};

/// Longest name in bytes that is written: that of backing files, too.
const MAX_NAME: usize = MAX_BACKING_NAME;

/// An external data file, as a header names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// Its name: absolute, or relative to the image's folder.
    pub name: OsString,
    /// It is a raw image of the disk, whatever the tables say.
    pub raw: bool,
}

/// Where an image that is being opened has its data.
pub(in crate::qcow2) enum DataSource {
    /// Where the header says that it has none outside.
    Own,
    /// In this file.
    External(Storage),
    /// Nobody is going to ask.
    Unread,
}

impl DataSource {
    /// The file that holds the data of the image in `file`.
    ///
    /// # Errors
    /// The header asks for something else.
    pub fn resolve(
        self,
        file: &Storage,
        area: &HeaderArea,
    ) -> std::result::Result<Storage, String> {
        let external = area.header.geometry.external_data;
        match self {
            Self::External(data) if external => Ok(data),
            Self::External(_) => Err("has no external data file".into()),
            Self::Own if external => Err(match area.extensions.data_file() {
                Some(name) => {
                    let name = name.display();
                    format!("keeps its data in the file '{name}', which has not been opened")
                }
                None => unnamed(),
            }),
            Self::Own | Self::Unread => Ok(file.clone()),
        }
    }
}

impl DataFile {
    /// The external data file that the image in `file` names, before it is opened; `None` also
    /// where the header is not one that can be read, which opening it reports.
    ///
    /// # Errors
    /// The host's error; that the header does not give the name that it should.
    pub async fn of(file: &Storage) -> Result<Option<Self>> {
        let Ok(area) = read_header(file).await? else {
            return Ok(None);
        };
        if !area.header.geometry.external_data {
            return Ok(None);
        }
        Self::in_header(&area)
            .map(Some)
            .ok_or_else(|| Error::Image {
                file: file.path().to_owned(),
                why: unnamed(),
            })
    }

    /// Whether the header of the image in `file` says that its data lies in an external data file.
    ///
    /// # Errors
    /// The host's error.
    pub async fn is_used_by(file: &Storage) -> Result<bool> {
        let area = read_header(file).await?;
        Ok(area.is_ok_and(|area| area.header.geometry.external_data))
    }

    pub(in crate::qcow2) fn in_header(area: &HeaderArea) -> Option<Self> {
        let name = area.extensions.data_file()?;
        let raw = is_raw(&area.header);
        area.header
            .geometry
            .external_data
            .then_some(Self { name, raw })
    }

    /// Names the file in a new header.
    ///
    /// # Errors
    /// The name cannot be written.
    pub(in crate::qcow2) fn write_to(
        &self,
        area: &mut HeaderArea,
    ) -> std::result::Result<(), String> {
        if self.name.is_empty() {
            return Err("the data file needs a name".into());
        }
        Self::rename(&self.name, area)?;
        area.header.incompatible |= Incompatible::DATA_FILE;
        if self.raw {
            area.header.autoclear |= AUTOCLEAR_RAW_DATA;
        }
        Ok(())
    }
}

impl DataFile {
    /// Has a header name the file otherwise; nothing, for an empty name.
    ///
    /// # Errors
    /// The name cannot be written.
    pub(in crate::qcow2) fn rename(
        name: &OsStr,
        area: &mut HeaderArea,
    ) -> std::result::Result<(), String> {
        if name.len() > MAX_NAME {
            return Err(format!(
                "the data file's name has {} bytes, more than {MAX_NAME}",
                name.len()
            ));
        }
        let name = Some(name).filter(|name| !name.is_empty());
        area.extensions.set_data_file(name);
        // The backing file's name may have to make room.
        let backing = area.backing();
        area.set_backing(backing.as_ref())
    }
}

fn unnamed() -> String {
    "keeps its data in an external data file, but does not say in which".into()
}

/// Whether the external data file of an image is an image of the disk in itself.
pub(in crate::qcow2) fn is_raw(header: &Header) -> bool {
    header.geometry.external_data && header.autoclear & AUTOCLEAR_RAW_DATA != 0
}

/// The autoclear bit that may stay set: what it says goes on being true.
pub(in crate::qcow2) fn autoclear_bit(header: &Header) -> u64 {
    if is_raw(header) {
        AUTOCLEAR_RAW_DATA
    } else {
        0
    }
}

/// The place in an external data file of clusters of the disk.
pub(in crate::qcow2) fn place(first: GuestCluster, count: u64) -> HostRun {
    HostRun {
        first: HostCluster(first.0),
        count,
    }
}

/// Checks where an entry for `cluster` points to.
///
/// # Errors
/// It is not where the cluster's data has to lie.
pub(in crate::qcow2) fn check_place(
    geometry: &Geometry,
    host: HostCluster,
    cluster: GuestCluster,
) -> std::result::Result<(), String> {
    if geometry.external_data && host.0 != cluster.0 {
        return Err(format!(
            "offset {:#x} in the external data file does not match that on the disk",
            geometry.host_offset(host)
        ));
    }
    Ok(())
}

impl Qcow2 {
    /// The file that holds guest data, where [`Qcow2::extent`] says: the image's own, or an external
    /// data file.
    pub fn data_storage(&self) -> &Storage {
        &self.data
    }

    /// The external data file, open, if the image has one.
    pub fn external_data(&self) -> Option<&Storage> {
        self.geometry.external_data.then_some(&self.data)
    }

    /// The external data file as the header names it, if the image has one.
    pub fn data_file(&self) -> Option<DataFile> {
        DataFile::in_header(&self.area.borrow())
    }

    /// Whether the data file is an image of the disk in itself.
    pub(in crate::qcow2) fn has_raw_data(&self) -> bool {
        is_raw(&self.area.borrow().header)
    }

    /// What of `data`, whole clusters for `offset`, is written there: a raw external data file has
    /// no more bytes than the disk.
    pub(in crate::qcow2) fn within_raw(&self, offset: u64, data: SgList) -> SgList {
        let room = self.size.get().saturating_sub(offset);
        if self.has_raw_data() && room < data.len() as u64 {
            // Less than the length.
            data.slice(0, room as usize)
        } else {
            data
        }
    }

    /// Makes `len` bytes at `at` of the disk read as zeros in a raw external data file. What the
    /// tables say stays true.
    pub(in crate::qcow2) async fn zero_raw_data(
        &self,
        at: u64,
        len: u64,
        unmap: bool,
    ) -> IoResult<()> {
        self.data.write_zeroes(at, len, unmap).await
    }

    /// Cuts an external data file off behind the disk's new end of `size` bytes. Growing the disk
    /// zeroes what is added, and so lengthens a raw one again.
    pub(in crate::qcow2) async fn cut_data(&self, size: u64) -> IoResult<()> {
        if self.geometry.external_data && self.data.len() > size {
            self.data.cut_off(size).await?;
        }
        Ok(())
    }

    /// Gives `len` bytes of an external data file back to the host; their entries say already that
    /// they are zeros. What was there is not needed any more, whatever becomes of the entries: a
    /// crash may show zeros early, as it may show them late.
    pub(in crate::qcow2) async fn punch_data(&self, offset: u64, len: u64) {
        if let Err(error) = self.data.punch_hole(offset, len).await {
            // The space stays in use on the host; nothing else is lost.
            tracing::warn!(%error, "discarded data could not be given back to the host");
        }
    }
}
