//! The file that holds the data of an image that is being opened.

use strata_storage::{
    Storage,
    error::{Error, Result},
};

use super::read_header;
use crate::qcow2::{
    DataFile,
    layout::{data_file::unnamed, header_area::HeaderArea},
};

/// Where an image that is being opened has its data.
pub(in crate::qcow2) enum DataSource {
    /// Where the header says that it has none outside.
    Own,
    /// In this file.
    External(Storage),
    /// It is not going to be read.
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
}
