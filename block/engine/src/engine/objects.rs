//! Objects that commands refer to by an id: credentials for TLS.

use strata_graph::Name;
use strata_storage::nbd::wire::TlsServer;

use super::{Engine, refused};
use crate::api::{CmdError, TlsCreds};

/// Credentials for TLS that have been read.
pub(super) struct TlsCredentials {
    id: Name,
    server: TlsServer,
}

impl Engine {
    /// Reads the credentials in a directory, for NBD servers to be started with.
    ///
    /// # Errors
    /// The id is taken; one line on what is wrong with the files.
    pub fn add_tls_creds(&self, id: &str, creds: &TlsCreds) -> Result<(), CmdError> {
        let id = self.opener.names().object(id)?;
        let server = TlsServer::load(&creds.dir, creds.verify_peer);
        let server = server.map_err(|error| refused(error.to_string()))?;
        let creds = TlsCredentials { id, server };
        self.tls_creds.borrow_mut().push(creds);
        Ok(())
    }

    pub(super) fn delete_tls_creds(&self, id: &str) -> Result<(), CmdError> {
        let creds = self.find_tls_creds(Some(id))?;
        if self
            .exports
            .any_server(|server| server.tls() == creds.as_ref())
        {
            return Err(refused(format!(
                "object '{id}' is in use, can not be deleted"
            )));
        }
        let mut all = self.tls_creds.borrow_mut();
        all.retain(|creds| creds.id.as_str() != id);
        Ok(())
    }

    /// The credentials called `id`; `None` for no id.
    pub(super) fn find_tls_creds(&self, id: Option<&str>) -> Result<Option<TlsServer>, CmdError> {
        let Some(id) = id else { return Ok(None) };
        let all = self.tls_creds.borrow();
        let found = all.iter().find(|creds| creds.id.as_str() == id);
        let missing = || refused(format!("No TLS credentials with id '{id}'"));
        Ok(Some(found.ok_or_else(missing)?.server.clone()))
    }
}
