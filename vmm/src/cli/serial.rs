//! Where the serial port goes.

use std::path::PathBuf;

/// Where the serial port goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SerialEndpoint {
    /// This terminal.
    Stdio,
    /// Nowhere: there is a port, but nobody listens.
    None,
    /// Output into a file, which is emptied first.
    File(PathBuf),
    /// A listening socket; one client at a time.
    Unix(PathBuf),
}

/// Parses the value of `--serial`.
///
/// # Errors
/// What values there are.
pub fn parse(text: &str) -> Result<SerialEndpoint, String> {
    match text.split_once(':') {
        None if text == "stdio" => Ok(SerialEndpoint::Stdio),
        None if text == "none" => Ok(SerialEndpoint::None),
        Some(("file", path)) if !path.is_empty() => Ok(SerialEndpoint::File(path.into())),
        Some(("unix", path)) if !path.is_empty() => Ok(SerialEndpoint::Unix(path.into())),
        _ => Err("expected stdio, none, file:PATH or unix:PATH".into()),
    }
}
