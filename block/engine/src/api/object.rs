//! Objects that commands refer to by an id (`qapi/qom.json`).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::CmdError;

/// `object-add`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ObjectAdd {
    /// What it is.
    pub qom_type: ObjectType,
    /// What it is called.
    pub id: String,
    /// The directory with the certificates; must be given.
    pub dir: Option<PathBuf>,
    /// On which side of a connection the credentials are used; [`Endpoint::Server`] if `None`.
    pub endpoint: Option<Endpoint>,
    /// Clients need a certificate that the CA has signed; so it is if `None`.
    pub verify_peer: Option<bool>,
}

impl ObjectAdd {
    pub(super) fn check(&self) -> Result<(), CmdError> {
        self.creds().map(drop)
    }

    /// The credentials.
    ///
    /// # Errors
    /// They are a client's; there is no directory.
    pub fn creds(&self) -> Result<TlsCreds, CmdError> {
        if self.endpoint == Some(Endpoint::Client) {
            return Err(CmdError::generic(
                "endpoint=client is not available: name the certificates of an nbds:// disk in its \
                 URI, tls-certificates=DIR",
            ));
        }
        let dir = self.dir.clone();
        Ok(TlsCreds {
            dir: dir.ok_or_else(|| CmdError::generic("Parameter 'dir' is missing"))?,
            verify_peer: self.verify_peer.unwrap_or(true),
        })
    }
}

/// `ObjectType`, as far as it exists here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ObjectType {
    /// Credentials for TLS.
    #[serde(rename = "tls-creds-x509")]
    TlsCredsX509,
}

/// `QCryptoTLSCredsEndpoint`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Endpoint {
    /// Of connections that are made from here.
    Client,
    /// Of connections that others make.
    Server,
}

/// `object-del`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ObjectDel {
    /// What the object is called.
    pub id: String,
}

/// `tls-creds-x509` with `endpoint=server`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsCreds {
    /// The directory with `ca-cert.pem`, `server-cert.pem` and `server-key.pem`.
    pub dir: PathBuf,
    /// Clients need a certificate that the CA has signed.
    pub verify_peer: bool,
}
