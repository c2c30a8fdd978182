//! Commands about objects that others refer to by an id (`qapi/qom.json`).

use std::path::PathBuf;

/// A command about objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectCmd {
    /// `object-add`.
    Add {
        /// What the object is called.
        id: String,
        /// What it is.
        creds: TlsCreds,
    },
    /// `object-del`.
    Delete {
        /// Which.
        id: String,
    },
}

/// `tls-creds-x509` with `endpoint=server`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsCreds {
    /// The directory with `ca-cert.pem`, `server-cert.pem` and `server-key.pem`.
    pub dir: PathBuf,
    /// Clients need a certificate that the CA has signed.
    pub verify_peer: bool,
}
