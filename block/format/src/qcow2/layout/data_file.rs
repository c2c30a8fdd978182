//! External data files: guest data beside the image's own file (specification,
//! "External data file").
//!
//! Data in an external file lies at the offset that it has on the virtual disk. Its clusters are
//! not counted, and belong to the image as long as it is: there are no internal snapshots and no
//! compressed clusters beside it.
//!
//! A raw external file is an image of the disk in itself. So whatever changes the disk changes the
//! file; the tables only ever say where data is.

use std::ffi::{OsStr, OsString};

use super::{
    geometry::{Geometry, GuestCluster, HostCluster, HostRun},
    header::{AUTOCLEAR_RAW_DATA, Incompatible, MAX_BACKING_NAME},
    header_area::HeaderArea,
};

/// Longest name in bytes that is written: that of backing files, too.
const MAX_NAME: usize = MAX_BACKING_NAME;

/// An external data file, as a header names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// Its name: absolute, or relative to the image's directory.
    pub name: OsString,
    /// It is a raw image of the disk, whatever the tables say.
    pub raw: bool,
}

impl DataFile {
    /// The external data file that a header names, if it names one.
    pub(in crate::qcow2) fn in_header(area: &HeaderArea) -> Option<Self> {
        let name = area.extensions.data_file()?;
        let raw = area.header.has_raw_data();
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

/// What is wrong with a header that should name an external data file, and does not.
pub(in crate::qcow2) fn unnamed() -> String {
    "keeps its data in an external data file, but does not say in which".into()
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
