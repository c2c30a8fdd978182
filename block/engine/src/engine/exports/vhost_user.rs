//! Exports that another part of the program serves: virtio-blk devices for other people's virtual
//! machines. Here they have their place among the exports and their way to the disk, no more: the
//! image layer knows nothing of virtio.

use std::{os::unix::net::UnixListener, rc::Rc};

use strata_exec::{Executor, LocalBoxFuture};
use strata_graph::{GuestDisk, disk::Disk};
use strata_storage::nbd::wire::Address;

use super::{Engine, Entry, Exported, Outcome, Served, check_on_top, check_writable, refused};
use crate::{api::VhostUserSpec, nbd, unix_socket::SocketFile};

/// A vhost-user export that is being served.
pub trait VhostUserExport {
    /// Whether a front end is connected.
    fn in_use(&self) -> bool;
    /// The disk may have another size now: the front end is notified.
    fn resized(&self);
    /// Cuts the front end off, finishes what is in flight and ends.
    fn stop(&self) -> LocalBoxFuture<'_, ()>;
}

/// Starts to serve a disk at a listening socket; the error is one line for people.
pub type VhostUserServer =
    fn(&Rc<Executor>, Listening, Disk, &VhostUserSpec) -> Result<Rc<dyn VhostUserExport>, String>;

/// A socket to serve at, and what removes its file once it is dropped.
pub struct Listening {
    /// The socket.
    pub socket: UnixListener,
    /// To be kept as long as somebody listens.
    pub file: Option<SocketFile>,
}

impl Engine {
    /// From now on vhost-user exports can be made, and `server` serves them.
    pub fn serve_vhost_user_with(&self, server: VhostUserServer) {
        *self.exports.vhost_user.borrow_mut() = Some(server);
    }

    /// Tells those who are served `disk` that it may have another size. NBD's protocol has no word
    /// for it.
    pub(in crate::engine) fn tell_resized(&self, disk: &Rc<GuestDisk>) {
        let entries = self.exports.entries.borrow();
        let is_it = |entry: &&Rc<Entry>| match &entry.what {
            Exported::Disk(exported) => Rc::ptr_eq(exported, disk),
            Exported::Layer { .. } => false,
        };
        for entry in entries.iter().filter(is_it) {
            if let Served::VhostUser(export) = &entry.served {
                export.resized();
            }
        }
    }

    /// Exports a disk for another virtual machine: for start-up, as [`Engine::export_at`].
    ///
    /// # Errors
    /// One line on why that cannot be.
    pub fn add_vhost_user(&self, id: String, disk: &str, spec: &VhostUserSpec) -> Outcome<()> {
        let server = *self.exports.vhost_user.borrow();
        let server = server.ok_or_else(|| refused("vhost-user exports are not available"))?;
        let (guest_disk, layer) = self.find_exported(disk)?;
        check_on_top(&guest_disk, &layer)?;
        if spec.writable {
            check_writable(&guest_disk, disk)?;
        }
        let id = self.opener.names().export(&id)?;
        let failed = |why: String| {
            refused(format!(
                "could not listen at {}: {why}",
                spec.path.display()
            ))
        };
        let listening = nbd::listen(Address::Unix(spec.path.clone()));
        let listening = listening.map_err(|error| failed(error.to_string()))?;
        let socket = Listening {
            socket: listening.socket.into(),
            file: listening.file,
        };
        let disk = Disk::new(guest_disk.clone());
        let export = server(&self.exec, socket, disk, spec).map_err(failed)?;
        self.enter_export(id, Exported::Disk(guest_disk), Served::VhostUser(export));
        Ok(())
    }
}

/// Refuses to end an export that is in use, unless it is to be ended `hard`.
pub(super) fn check_unused(id: &str, export: &dyn VhostUserExport, hard: bool) -> Outcome<()> {
    if export.in_use() && !hard {
        return Err(refused(format!(
            "export '{id}' still in use: disconnect its front end, or use mode=hard"
        )));
    }
    Ok(())
}
