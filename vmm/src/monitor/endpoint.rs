//! Where clients come from: `stdio`, `unix:PATH`, `fd:N`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// One place to serve clients at, as `--qmp` and `--monitor` take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// Standard input and output: one client.
    Stdio,
    /// A socket that listens at this path.
    Unix(PathBuf),
    /// A socket that was open when the program started: one that listens, or one connection.
    Fd(i32),
}

/// The text is not an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// No such kind.
    #[error("'{0}' is not an endpoint: use stdio, unix:PATH or fd:NUMBER")]
    Unknown(String),
    /// `unix:` alone.
    #[error("unix: needs the socket's path after it")]
    NoPath,
    /// `fd:` with something that cannot be an inherited descriptor.
    #[error("'fd:{0}' does not name a file descriptor: use a number from 3 on")]
    BadFd(String),
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Endpoint, EndpointError> {
        if text == "stdio" {
            return Ok(Endpoint::Stdio);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err(EndpointError::NoPath)
            } else {
                Ok(Endpoint::Unix(path.into()))
            };
        }
        if let Some(number) = text.strip_prefix("fd:") {
            return match number.parse() {
                Ok(number @ 3..) => Ok(Endpoint::Fd(number)),
                _ => Err(EndpointError::BadFd(number.to_owned())),
            };
        }
        Err(EndpointError::Unknown(text.to_owned()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Stdio => f.write_str("stdio"),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
            Endpoint::Fd(number) => write!(f, "fd:{number}"),
        }
    }
}
