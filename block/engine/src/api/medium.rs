//! Arguments of the commands for drives whose medium can be another one (`qapi/block.json`,
//! `qapi/block-core.json`).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::CmdError;

/// What a command calls a drive by: its id (`device`), or the path of its device (`id`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DriveName {
    /// The drive's id.
    Device(String),
    /// The path of the device whose drive it is, the device's id, or the drive's.
    Id(String),
}

impl DriveName {
    /// Exactly one of the two must be given.
    fn new(device: Option<&String>, id: Option<&String>) -> Result<Self, CmdError> {
        match (device, id) {
            (Some(device), None) => Ok(Self::Device(device.clone())),
            (None, Some(id)) => Ok(Self::Id(id.clone())),
            _ => Err(CmdError::generic("Need exactly one of 'device' and 'id'")),
        }
    }
}

/// As it was given.
impl fmt::Display for DriveName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Device(name) | Self::Id(name)) = self;
        f.write_str(name)
    }
}

/// Commands that say by `device` or `id` which drive they mean. (serde cannot flatten a struct of
/// the two into them and refuse unknown members as well.)
macro_rules! name_a_drive {
    ($($command:ident),*) => {$(
        impl $command {
            /// Which drive.
            ///
            /// # Errors
            /// None was named, or two were.
            pub fn drive(&self) -> Result<DriveName, CmdError> {
                DriveName::new(self.device.as_ref(), self.id.as_ref())
            }
        }
    )*};
}

name_a_drive!(
    OpenTray,
    DriveRef,
    BlockdevInsertMedium,
    BlockdevChangeMedium
);

/// `eject`, `blockdev-open-tray`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct OpenTray {
    /// The drive's id; this or `id` must be given.
    pub device: Option<String>,
    /// The device whose drive it is.
    pub id: Option<String>,
    /// Also if the guest has locked the tray; not so if `None`.
    pub force: Option<bool>,
}

/// `blockdev-close-tray`, `blockdev-remove-medium`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DriveRef {
    /// The drive's id; this or `id` must be given.
    pub device: Option<String>,
    /// The device whose drive it is.
    pub id: Option<String>,
}

/// `blockdev-insert-medium`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BlockdevInsertMedium {
    /// The drive's id; this or `id` must be given.
    pub device: Option<String>,
    /// The device whose drive it is.
    pub id: Option<String>,
    /// An image that `blockdev-add` has opened.
    pub node_name: String,
}

/// `blockdev-change-medium`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct BlockdevChangeMedium {
    /// The drive's id; this or `id` must be given.
    pub device: Option<String>,
    /// The device whose drive it is.
    pub id: Option<String>,
    /// The new medium's image.
    pub filename: String,
    /// Its format; looked for if `None`, as nothing is written to it.
    pub format: Option<String>,
    /// Also if the guest has locked the tray; not so if `None`.
    pub force: Option<bool>,
    /// Whether the new medium may be written to; as the last one if `None`.
    pub read_only_mode: Option<ChangeReadOnlyMode>,
}

/// `BlockdevChangeReadOnlyMode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeReadOnlyMode {
    /// As it was.
    Retain,
    /// It may not.
    ReadOnly,
    /// It may: not where the drive only reads.
    ReadWrite,
}
