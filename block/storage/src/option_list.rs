//! Lists of options as command lines have them: `NAME=VALUE,NAME=VALUE`. A file's name in them may
//! have any bytes.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
};

/// Splits a list at its commas; a doubled comma is one within an option. Nothing is left out: an
/// empty list is one empty option.
pub fn split_options(list: &OsStr) -> Vec<OsString> {
    let mut options = vec![Vec::new()];
    let mut bytes = list.as_bytes().iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte == b',' && bytes.next_if_eq(&b',').is_none() {
            options.push(Vec::new());
        } else if let Some(option) = options.last_mut() {
            option.push(byte);
        }
    }
    options.into_iter().map(OsString::from_vec).collect()
}

#[cfg(test)]
mod tests;
