//! Addresses of sockets as commands give them (`qapi/sockets.json`).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use strata_storage::nbd::wire::Address;

use super::CmdError;

/// `SocketAddressLegacy`: `{"type": "unix", "data": {"path": ...}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    content = "data",
    rename_all = "kebab-case",
    deny_unknown_fields
)]
pub enum SocketAddressLegacy {
    /// TCP.
    Inet(InetSocketAddress),
    /// A socket in the file system.
    Unix(UnixSocketAddress),
}

/// `InetSocketAddress`, as far as it exists here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct InetSocketAddress {
    /// A name or an address.
    pub host: String,
    /// A number.
    pub port: String,
}

/// `UnixSocketAddress`, as far as it exists here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct UnixSocketAddress {
    /// The socket's path.
    pub path: PathBuf,
}

impl SocketAddressLegacy {
    /// Where that is.
    ///
    /// # Errors
    /// The port is no number.
    pub fn address(&self) -> Result<Address, CmdError> {
        match self {
            Self::Unix(UnixSocketAddress { path }) => Ok(Address::Unix(path.clone())),
            Self::Inet(InetSocketAddress { host, port }) => Ok(Address::Tcp {
                host: host.clone(),
                port: port
                    .parse()
                    .map_err(|_| CmdError::generic(format!("'{port}' is not a TCP port")))?,
            }),
        }
    }
}

impl From<Address> for SocketAddressLegacy {
    fn from(address: Address) -> Self {
        match address {
            Address::Unix(path) => Self::Unix(UnixSocketAddress { path }),
            Address::Tcp { host, port } => {
                let port = port.to_string();
                Self::Inet(InetSocketAddress { host, port })
            }
        }
    }
}

/// `SocketAddress`, as far as it exists here: `{"type": "unix", "path": ...}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SocketAddress {
    /// Kind of socket; `unix` if `None`.
    #[serde(rename = "type")]
    pub kind: Option<SocketAddressType>,
    /// The path of a socket in the file system.
    pub path: Option<PathBuf>,
    /// The host of a TCP socket.
    pub host: Option<String>,
    /// Its port.
    pub port: Option<String>,
}

/// `SocketAddressType`, as far as it exists here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SocketAddressType {
    /// TCP.
    Inet,
    /// A socket in the file system.
    Unix,
}

impl SocketAddress {
    /// The path, if one is given.
    ///
    /// # Errors
    /// It is a socket of another kind.
    pub(crate) fn unix_path(&self) -> Result<Option<&Path>, CmdError> {
        match self.kind {
            None | Some(SocketAddressType::Unix) => Ok(self.path.as_deref()),
            Some(SocketAddressType::Inet) => Err(CmdError::generic(
                "vhost-user exports listen at unix sockets only",
            )),
        }
    }
}
