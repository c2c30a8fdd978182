//! Names of image formats, and what a file looks like.

use std::{fmt, str::FromStr};

use strata_storage::{Storage, error::IoResult};

/// An image format that a layer can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The guest's bytes as they are.
    Raw,
    /// qcow2, versions 2 and 3.
    Qcow2,
    /// QED.
    Qed,
}

/// A format name that is not known here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown image format '{0}' (known: raw, qcow2, qed)")]
pub struct UnknownFormat(pub String);

impl Format {
    /// The name that people write.
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Qed => "qed",
        }
    }

    /// What the file looks like. Only ever a hint for people, or for images that nobody writes to:
    /// a guest can write any header into a raw disk.
    ///
    /// # Errors
    /// The host's error.
    pub(crate) async fn looks_like(file: &Storage) -> IoResult<Self> {
        let magic = file.read_vec(0, 4).await?;
        Ok(match magic.as_slice() {
            b"QFI\xfb" => Self::Qcow2,
            b"QED\0" => Self::Qed,
            _ => Self::Raw,
        })
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        match name {
            "raw" => Ok(Self::Raw),
            "qcow2" => Ok(Self::Qcow2),
            "qed" => Ok(Self::Qed),
            other => Err(UnknownFormat(other.to_owned())),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
