//! Lists of options: the values of `-o`. A file's name in them may have any bytes.

use std::{
    borrow::Cow,
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
};

use strata_storage::split_options;

/// The single options of all values of `-o`.
///
/// # Errors
/// A list begins or ends with a comma.
pub fn checked(lists: &[OsString]) -> Result<Vec<OsString>, String> {
    let invalid = |list: &&OsString| {
        let list = list.as_bytes();
        // A doubled comma belongs to a value; it needs one to belong to.
        let trailing = list.iter().rev().take_while(|byte| **byte == b',').count();
        list.is_empty() || list.starts_with(b",") || !trailing.is_multiple_of(2)
    };
    if let Some(list) = lists.iter().find(invalid) {
        return Err(format!("Invalid option list: {}", list.display()));
    }
    Ok(split(lists).collect())
}

/// As [`checked`], whatever the lists look like.
pub fn split(lists: &[OsString]) -> impl Iterator<Item = OsString> {
    lists.iter().flat_map(|list| split_options(list))
}

/// An option's name, and its value: what is switched on needs none.
pub fn name_and_value(option: &OsStr) -> (Cow<'_, str>, &OsStr) {
    let bytes = option.as_bytes();
    let end = bytes.iter().position(|byte| *byte == b'=');
    let (name, value) = match end {
        Some(end) => (&bytes[..end], &bytes[end + 1..]),
        None => (bytes, &b"on"[..]),
    };
    (String::from_utf8_lossy(name), OsStr::from_bytes(value))
}

/// Whether a list of options asks for the list of them.
pub fn asks_for_help(lists: &[OsString]) -> bool {
    split(lists).any(|option| option == "help" || option == "?")
}
