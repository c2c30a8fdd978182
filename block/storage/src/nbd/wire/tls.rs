//! TLS for NBD, on both sides (the NBD project's `doc/proto.md`, "TLS support"), by rustls.
//!
//! Keys and certificates lie in a directory under the names that QEMU and libnbd use:
//! `ca-cert.pem`; `server-cert.pem` and `server-key.pem`; `client-cert.pem` and `client-key.pem`.
//! They are read when the directory is named; a server that is to use new ones is started again.

use std::{
    io::{self, Read, Write},
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
};

/// Bytes that a connection has encrypted and not yet sent at most.
const SEND_BUFFER: usize = 64 << 10;

/// Why TLS cannot be used as asked.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of the directory.
    #[error("could not read '{file}': {source}")]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// What the files hold together.
    #[error("the certificates in '{dir}' cannot be used: {why}")]
    Unusable {
        /// The directory.
        dir: PathBuf,
        /// Why.
        why: String,
    },
}

/// What a server needs. Cheap to clone.
#[derive(Clone)]
pub struct TlsServer(Arc<ServerConfig>);

/// What a client needs. Cheap to clone.
#[derive(Clone)]
pub struct TlsClient(Arc<ClientConfig>);

impl PartialEq for TlsServer {
    /// Whether both come from one reading of a directory.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl TlsServer {
    /// Reads the server's files in `dir`. With `verify_peer`, clients need a certificate that the
    /// CA has signed.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(dir: &Path, verify_peer: bool) -> Result<Self, TlsError> {
        let unusable = |why: String| TlsError::Unusable {
            dir: dir.to_owned(),
            why,
        };
        let (chain, key) = identity(dir, "server")?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(error.to_string()))?;
        let builder = if verify_peer {
            let roots = Arc::new(roots(dir)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|e| unusable(e.to_string()))?)
        } else {
            builder.with_no_client_auth()
        };
        let config = builder.with_single_cert(chain, key);
        let config = config.map_err(|error| unusable(error.to_string()))?;
        Ok(Self(Arc::new(config)))
    }

    /// The server's side of a new connection.
    pub fn connection(&self) -> Result<Connection, rustls::Error> {
        let connection = ServerConnection::new(self.0.clone())?;
        Ok(bounded(connection.into()))
    }
}

impl TlsClient {
    /// Reads the client's files in `dir`; a certificate of its own it need not have.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn load(dir: &Path) -> Result<Self, TlsError> {
        let unusable = |error: rustls::Error| TlsError::Unusable {
            dir: dir.to_owned(),
            why: error.to_string(),
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_root_certificates(roots(dir)?);
        let config = if dir.join("client-cert.pem").exists() {
            let (chain, key) = identity(dir, "client")?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(unusable)?
        } else {
            builder.with_no_client_auth()
        };
        Ok(Self(Arc::new(config)))
    }

    /// The client's side of a new connection to the server whose certificate names `host`.
    pub fn connection(&self, host: ServerName<'static>) -> Result<Connection, rustls::Error> {
        let connection = ClientConnection::new(self.0.clone(), host)?;
        Ok(bounded(connection.into()))
    }
}

fn bounded(mut connection: Connection) -> Connection {
    connection.set_buffer_limit(Some(SEND_BUFFER));
    connection
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(dir: &Path, whose: &str) -> Result<Identity, TlsError> {
    let chain = certificates(&dir.join(format!("{whose}-cert.pem")))?;
    let file = dir.join(format!("{whose}-key.pem"));
    warn_of_readers(&file);
    let key = PrivateKeyDer::from_pem_file(&file);
    let key = key.map_err(|source| TlsError::File { file, source })?;
    Ok((chain, key))
}

/// Says so in the log if everybody on the host may read a private key. It is used all the same, as
/// other programs use it.
fn warn_of_readers(key: &Path) {
    if readable_by_all(key) {
        let file = key.display();
        tracing::warn!(%file, "everybody on this host can read the private key: take the right away (chmod o-r), and make a new one");
    }
}

fn readable_by_all(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|meta| meta.permissions().mode() & 0o004 != 0)
}

fn roots(dir: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&dir.join("ca-cert.pem"))? {
        roots.add(certificate).map_err(|error| TlsError::Unusable {
            dir: dir.to_owned(),
            why: format!("ca-cert.pem: {error}"),
        })?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect);
    read.map_err(|source| TlsError::File {
        file: file.to_owned(),
        source,
    })
}

/// A non-blocking socket for rustls to read and write.
pub(super) struct Socket<'a>(pub &'a OwnedFd);

impl Read for Socket<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let (n, _) = recv(self.0, into, RecvFlags::empty())?;
        Ok(n)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self.0, bytes, SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
