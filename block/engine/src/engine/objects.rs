//! Objects that commands refer to by an id: credentials for TLS.

use strata_storage::nbd::wire::TlsServer;

use super::{Engine, refused};
use crate::api::{CmdError, TlsCreds};

impl Engine {
    /// Reads the credentials in a directory, for NBD servers to be started with.
    ///
    /// # Errors
    /// The id is taken; one line on what is wrong with the files.
    pub fn add_tls_creds(&self, id: String, creds: &TlsCreds) -> Result<(), CmdError> {
        if self.tls_creds.borrow().contains_key(&id) {
            let desc =
                format!("attempt to add duplicate property '{id}' to object (type 'container')");
            return Err(refused(desc));
        }
        let server = TlsServer::load(&creds.dir, creds.verify_peer);
        let server = server.map_err(|error| refused(error.to_string()))?;
        self.tls_creds.borrow_mut().insert(id, server);
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
        self.tls_creds.borrow_mut().remove(id);
        Ok(())
    }

    /// The credentials called `id`; `None` for no id.
    pub(super) fn find_tls_creds(&self, id: Option<&str>) -> Result<Option<TlsServer>, CmdError> {
        let Some(id) = id else { return Ok(None) };
        let found = self.tls_creds.borrow().get(id).cloned();
        let missing = || refused(format!("No TLS credentials with id '{id}'"));
        found.ok_or_else(missing).map(Some)
    }
}
