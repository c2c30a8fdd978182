//! Why an image cannot be opened, as `qemu-img` begins it.

use std::{error, fmt};

use strata_storage::error::{Error, IoError};

/// An image that could not be opened: its error, with "Could not open 'NAME': " in front.
#[derive(Debug)]
pub struct OpenError(pub Error);

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Error::Image { file, why } => {
                write!(f, "Could not open '{}': {why}", file.display())
            }
            Error::File {
                what: "open",
                file,
                source,
            } => write!(f, "Could not open '{}': {source}", file.display()),
            Error::Io(IoError::Corrupt { file, what }) => {
                let file = file.display();
                write!(f, "Could not open '{file}': corrupt image: {what}")
            }
            error @ Error::Locked { .. } => {
                let said = error.to_string();
                let rest = said.strip_prefix("could not open ").unwrap_or(&said);
                write!(f, "Could not open {rest}")
            }
            error => error.fmt(f),
        }
    }
}

impl error::Error for OpenError {}

impl From<Error> for OpenError {
    fn from(error: Error) -> Self {
        Self(error)
    }
}
