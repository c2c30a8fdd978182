//! Option values of the form `key=value,key=value`, a comma inside a value doubled.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt, OsStringExt},
};

use strata_storage::split_options;

/// The pairs in `text`, each key once.
///
/// # Errors
/// What is wrong, with what would be right.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let pairs = native_pairs(text.as_ref())?.into_iter();
    // What was text still is: it was only cut at commas and equals signs.
    let text = |(key, value): (_, OsString)| (key, value.to_string_lossy().into_owned());
    Ok(pairs.map(text).collect())
}

/// The same where values may be names of files, which need not be text.
///
/// # Errors
/// What is wrong, with what would be right.
pub(super) fn native_pairs(text: &OsStr) -> Result<Vec<(String, OsString)>, String> {
    let mut pairs: Vec<(String, OsString)> = Vec::new();
    for pair in split_options(text) {
        let pair = pair.as_bytes();
        let at = pair.iter().position(|&byte| byte == b'=');
        let at = at.ok_or_else(|| {
            let pair = String::from_utf8_lossy(pair);
            format!("'{pair}' is not key=value (a comma inside a value is doubled)")
        })?;
        let key = String::from_utf8_lossy(&pair[..at]).into_owned();
        if pairs.iter().any(|(earlier, _)| *earlier == key) {
            return Err(format!("'{key}' is given twice"));
        }
        pairs.push((key, OsString::from_vec(pair[at + 1..].to_vec())));
    }
    Ok(pairs)
}

/// `on` or `off`.
pub(super) fn on_off(key: &str, value: &str) -> Result<bool, String> {
    choose(key, value, &[("on", true), ("off", false)])
}

/// One of several words.
pub(super) fn choose<T: Copy>(key: &str, value: &str, all: &[(&str, T)]) -> Result<T, String> {
    let found = all.iter().find(|(word, _)| *word == value);
    found.map(|&(_, meaning)| meaning).ok_or_else(|| {
        let words: Vec<_> = all.iter().map(|(word, _)| *word).collect();
        format!("{key}={value}: expected {}", words.join(", "))
    })
}
