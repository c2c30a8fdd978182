//! [`Backing`]: the file below an image, as the image names it.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
};

/// The backing file, as the header names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// Its name, as the bytes that it is to the host: absolute, or relative to the image's
    /// directory.
    pub name: OsString,
    /// Its format, if the image says it.
    pub format: Option<String>,
}

/// The name that these bytes of a header give a file.
///
/// # Errors
/// No file can have it.
pub(crate) fn file_name(bytes: &[u8]) -> Result<OsString, String> {
    if bytes.is_empty() || bytes.contains(&0) {
        return Err("the backing file's name is none that a file can have".into());
    }
    Ok(OsStr::from_bytes(bytes).to_owned())
}
