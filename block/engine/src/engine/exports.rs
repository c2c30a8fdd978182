//! Exports: disks on the network, and for other people's virtual machines.

mod vhost_user;

use std::{
    cell::{Cell, RefCell},
    rc::{Rc, Weak},
};

pub use vhost_user::{Listening, VhostUserExport, VhostUserServer};

use strata_exec::Queue;
use strata_format::bitmap::Held;
use strata_graph::{Busy, GuestDisk, Hold, LayerDisk, Name, Node, Purpose, disk::Disk};
use strata_storage::nbd::wire::{Address, TlsServer};

use super::{Engine, bitmaps::find_for_export, find::check_on_top, refused};
use crate::{
    api::{
        BitmapRef, BlockExportAdd, BlockExportDel, CmdError, Event, ExportInfo, ExportType,
        NbdServerAdd, NbdServerRemove, NbdServerStart, RemoveMode, Reply, Writable,
    },
    nbd::{Export, MAX_BITMAPS, Server, ServerError},
};

type Outcome<T> = Result<T, CmdError>;

/// The servers of one device thread, and what they export.
#[derive(Default)]
pub(super) struct Exports {
    /// The first is the one that commands add to.
    servers: RefCell<Vec<Rc<Server>>>,
    entries: RefCell<Vec<Rc<Entry>>>,
    /// Serves vhost-user exports, where there is one.
    vhost_user: RefCell<Option<VhostUserServer>>,
    /// A server is being started or stopped.
    changing: Cell<bool>,
}

impl Exports {
    /// Whether there is a server of which this is true.
    pub(super) fn any_server(&self, is_it: impl Fn(&Server) -> bool) -> bool {
        self.servers.borrow().iter().any(|server| is_it(server))
    }
}

/// What is exported.
enum Exported {
    /// A disk, whatever lies on top: layers may come and go.
    Disk(Rc<GuestDisk>),
    /// A layer below the top of a disk.
    Layer {
        layer: Rc<Node>,
        /// Of the layer and those below it: nobody writes or closes them.
        _hold: Hold,
    },
}

/// One export. It is in the list, and nowhere else.
struct Entry {
    id: Name,
    what: Exported,
    served: Served,
    shutting_down: Cell<bool>,
}

/// By whom, and as what.
#[derive(Clone)]
enum Served {
    Nbd {
        server: Rc<Server>,
        export: Rc<Export>,
    },
    VhostUser(Rc<dyn VhostUserExport>),
}

impl Entry {
    /// What NBD clients ask for.
    fn nbd_name(&self) -> Option<&str> {
        match &self.served {
            Served::Nbd { export, .. } => Some(&export.name),
            Served::VhostUser(_) => None,
        }
    }
}

/// An export to be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExportSpec {
    /// The disk's id, or the node name of one of its layers. Those below the top are read only.
    pub disk: String,
    /// The export's name in the monitor; what clients ask for if `None`.
    pub id: Option<String>,
    /// What clients ask for; the disk's name as given if `None`.
    pub name: Option<String>,
    /// For people who list the exports.
    pub description: Option<String>,
    /// Clients may write.
    pub writable: bool,
    /// Dirty bitmaps that clients may read.
    pub bitmaps: Vec<BitmapRef>,
}

impl Engine {
    /// Exports a disk at `address`, where a server is started if none listens there yet, with the
    /// credentials called `tls_creds`; says where that listens, with the port that the host chose
    /// in place of 0. Blocks: for start-up.
    ///
    /// # Errors
    /// One line on why that cannot be.
    pub fn export_at(
        self: &Rc<Self>,
        address: &Address,
        tls_creds: Option<&str>,
        spec: ExportSpec,
    ) -> Outcome<Address> {
        let (engine, wanted) = (self.clone(), address.clone());
        let tls = self.find_tls_creds(tls_creds)?;
        self.exec.block_on(async move {
            let mut servers = engine.exports.servers.borrow().clone().into_iter();
            let server = match servers.find(|server| server.wanted_address() == &wanted) {
                Some(server) if server.tls() == tls.as_ref() => server,
                Some(_) => {
                    let desc = format!("another export at {wanted} has other tls-creds");
                    return Err(refused(desc));
                }
                None => engine.start_server(wanted, None, tls).await?,
            };
            engine.add_export(&server, spec)?;
            Ok(server.address().clone())
        })
    }

    /// `nbd-server-start`.
    pub(super) async fn nbd_server_start(&self, cmd: NbdServerStart) -> Outcome<Reply> {
        if !self.exports.servers.borrow().is_empty() || self.exports.changing.get() {
            return Err(refused("NBD server already running"));
        }
        let address = cmd.addr.address()?;
        let tls = self.find_tls_creds(cmd.tls_creds.as_deref())?;
        let max_connections = cmd.max_connections.filter(|max| *max > 0);
        let server = self.start_server(address, max_connections, tls).await?;
        if let Some(Writable(writable)) = cmd.all
            && let Err(error) = self.export_all(&server, writable)
        {
            self.stop_servers().await;
            return Err(error);
        }
        Ok(Reply::Done)
    }

    /// `nbd-server-stop`.
    pub(super) async fn nbd_server_stop(&self) -> Outcome<Reply> {
        self.main_server()?;
        self.stop_servers().await;
        Ok(Reply::Done)
    }

    /// `nbd-server-add`.
    pub(super) fn nbd_server_add(&self, cmd: NbdServerAdd) -> Outcome<Reply> {
        let server = self.main_server()?;
        let (disk, layer) = self.find_exported(&cmd.device)?;
        let is_top = Rc::ptr_eq(&disk.root(), &layer);
        let bitmap = cmd.bitmap.map(|name| BitmapRef { node: None, name });
        let spec = ExportSpec {
            disk: cmd.device,
            id: None,
            name: cmd.name,
            description: cmd.description,
            // A disk that cannot be written is exported read-only, as QEMU does it.
            writable: cmd.writable.unwrap_or(false) && is_top && !disk.options().read_only,
            bitmaps: bitmap.into_iter().collect(),
        };
        self.add_export(&server, spec)?;
        Ok(Reply::Done)
    }

    /// `nbd-server-remove`.
    pub(super) fn nbd_server_remove(self: &Rc<Self>, cmd: &NbdServerRemove) -> Outcome<Reply> {
        let name = cmd.name.as_str();
        let is_it = |entry: &Entry| entry.nbd_name() == Some(name);
        self.remove_export(name, is_it, cmd.mode)?;
        Ok(Reply::Done)
    }

    /// `block-export-add`.
    pub(super) fn block_export_add(&self, cmd: BlockExportAdd) -> Outcome<Reply> {
        match cmd.kind {
            ExportType::Nbd => {
                let spec = ExportSpec {
                    disk: cmd.node_name,
                    id: Some(cmd.id),
                    name: cmd.name,
                    description: cmd.description,
                    writable: cmd.writable.unwrap_or(false),
                    bitmaps: cmd.bitmaps.unwrap_or_default(),
                };
                self.add_export(&self.main_server()?, spec)?;
            }
            ExportType::VhostUserBlk => {
                let spec = cmd.vhost_user()?;
                self.add_vhost_user(cmd.id, &cmd.node_name, &spec)?;
            }
        }
        Ok(Reply::Done)
    }

    /// `block-export-del`.
    pub(super) fn block_export_del(self: &Rc<Self>, cmd: &BlockExportDel) -> Outcome<Reply> {
        self.remove_export(&cmd.id, |entry| entry.id.as_str() == cmd.id, cmd.mode)?;
        Ok(Reply::Done)
    }

    /// Stops every NBD server and forgets its exports.
    async fn stop_servers(&self) {
        self.exports.changing.set(true);
        let entries = self.exports.entries.take();
        let (entries, kept) = entries.into_iter().partition(|e| e.nbd_name().is_some());
        *self.exports.entries.borrow_mut() = kept;
        for server in self.exports.servers.take() {
            server.stop().await;
        }
        self.exports.changing.set(false);
        for entry in entries {
            self.tell_deleted(entry);
        }
    }

    /// Stops everything that anybody is served with.
    pub(super) async fn stop_exports(&self) {
        self.stop_servers().await;
        for entry in self.exports.entries.take() {
            if let Served::VhostUser(export) = &entry.served {
                export.stop().await;
            }
            self.tell_deleted(entry);
        }
    }

    async fn start_server(
        &self,
        address: Address,
        max_connections: Option<u32>,
        tls: Option<TlsServer>,
    ) -> Outcome<Rc<Server>> {
        self.exports.changing.set(true);
        let started = Server::start(&self.exec, address, max_connections, tls).await;
        self.exports.changing.set(false);
        let server = started?;
        self.exports.servers.borrow_mut().push(server.clone());
        Ok(server)
    }

    fn main_server(&self) -> Outcome<Rc<Server>> {
        let servers = self.exports.servers.borrow();
        let first = servers.first().cloned();
        first.ok_or_else(|| refused("NBD server not running"))
    }

    /// The layer that a command about exports means, and its disk.
    fn find_exported(&self, name: &str) -> Outcome<(Rc<GuestDisk>, Rc<Node>)> {
        self.find_layer(name).ok_or_else(|| self.not_found(name))
    }

    fn add_export(&self, server: &Rc<Server>, spec: ExportSpec) -> Outcome<()> {
        let (of, layer) = self.find_exported(&spec.disk)?;
        let name = spec.name.unwrap_or_else(|| spec.disk.clone());
        let id = spec.id.unwrap_or_else(|| name.clone());
        let what = if Rc::ptr_eq(&of.root(), &layer) {
            if spec.writable {
                check_writable(&of, &spec.disk)?;
            }
            Exported::Disk(of)
        } else {
            let hold = Hold::keep(&of, layer.chain(), Purpose::Export(id.clone()))?;
            if spec.writable {
                check_on_top(&of, &layer)?;
            }
            Exported::Layer {
                layer: layer.clone(),
                _hold: hold,
            }
        };
        let id = self.opener.names().export(&id).map_err(|error| {
            // By name is what `nbd-server-add` is asked for.
            if id == name {
                ServerError::NameTaken(id).into()
            } else {
                CmdError::from(error)
            }
        })?;
        let bitmaps = self.find_bitmaps(&layer, &spec.bitmaps, spec.writable)?;
        let export = server.add(Export {
            name,
            description: spec.description,
            disk: match &what {
                Exported::Disk(disk) => Disk::new(disk.clone()),
                Exported::Layer { layer, .. } => {
                    Disk::new(LayerDisk::new(self.exec.clone(), layer.clone()))
                }
            }
            .by_bytes(),
            writable: spec.writable,
            bitmaps,
        })?;
        let server = server.clone();
        self.enter_export(id, what, Served::Nbd { server, export });
        Ok(())
    }

    fn enter_export(&self, id: Name, what: Exported, served: Served) {
        self.exports.entries.borrow_mut().push(Rc::new(Entry {
            id,
            what,
            served,
            shutting_down: Cell::new(false),
        }));
    }

    /// Finds an export's bitmaps and makes them busy.
    fn find_bitmaps(
        &self,
        top: &Rc<Node>,
        wanted: &[BitmapRef],
        writable: bool,
    ) -> Outcome<Vec<Held>> {
        if wanted.len() > MAX_BITMAPS {
            let desc = format!("An export has at most {MAX_BITMAPS} bitmaps");
            return Err(refused(desc));
        }
        let find = |wanted| {
            let found = find_for_export(self, top, wanted, writable);
            found.map(|bitmap| bitmap.hold())
        };
        wanted.iter().map(find).collect()
    }

    /// Refuses to touch a disk that is exported, in the words for what is held.
    pub(super) fn check_not_exported(&self, disk: &Rc<GuestDisk>) -> Outcome<()> {
        let entries = self.exports.entries.borrow();
        let is_its = |entry: &&Rc<Entry>| matches!(&entry.what, Exported::Disk(own) if Rc::ptr_eq(own, disk));
        match entries.iter().find(is_its) {
            None => Ok(()),
            Some(entry) => {
                let purpose = Purpose::Export(entry.id.as_str().to_owned());
                Err(Busy::new(disk, &disk.root(), purpose).into())
            }
        }
    }

    fn export_all(&self, server: &Rc<Server>, writable: bool) -> Outcome<()> {
        let disks = self.disks.borrow();
        let spec = |disk: &Rc<GuestDisk>| ExportSpec {
            disk: disk.options().id.clone(),
            writable: writable && !disk.options().read_only,
            ..Default::default()
        };
        disks
            .iter()
            .try_for_each(|disk| self.add_export(server, spec(disk)))
    }

    /// Removes an export now, and reports that when its last client has gone.
    fn remove_export(
        self: &Rc<Self>,
        what: &str,
        is_it: impl Fn(&Entry) -> bool,
        mode: Option<RemoveMode>,
    ) -> Outcome<()> {
        let hard = mode == Some(RemoveMode::Hard);
        let entries = self.exports.entries.borrow();
        let entry = entries.iter().find(|entry| is_it(entry));
        let missing = || refused(format!("Export '{what}' is not found"));
        let entry = entry.ok_or_else(missing)?;
        if entry.shutting_down.get() {
            let desc = format!("Export '{what}' is already shutting down");
            return Err(refused(desc));
        }
        match &entry.served {
            Served::Nbd { server, export } => server.remove(&export.name, hard)?,
            Served::VhostUser(export) => vhost_user::check_unused(what, export.as_ref(), hard)?,
        }
        entry.shutting_down.set(true);
        let (engine, served, entry) = (self.clone(), entry.served.clone(), Rc::downgrade(entry));
        self.exec
            .spawn_named(Queue::Guest, "end of an export", async move {
                match &served {
                    Served::Nbd { server, export } => server.unused(export).await,
                    Served::VhostUser(export) => export.stop().await,
                }
                engine.forget_export(&entry);
            });
        Ok(())
    }

    /// Removes an export that is not served any more, unless the end of its server has done so.
    fn forget_export(&self, entry: &Weak<Entry>) {
        let mut entries = self.exports.entries.borrow_mut();
        let is_it = |other: &Rc<Entry>| std::ptr::eq(Rc::as_ptr(other), entry.as_ptr());
        let place = entries.iter().position(is_it);
        let removed = place.map(|place| entries.remove(place));
        drop(entries);
        if let Some(entry) = removed {
            self.tell_deleted(entry);
        }
    }

    /// Tells of an export that is gone: others may have its id.
    fn tell_deleted(&self, entry: Rc<Entry>) {
        let id = entry.id.as_str().to_owned();
        drop(entry);
        (self.events.borrow_mut())(Event::ExportDeleted { id });
    }

    pub(super) fn describe_exports(&self) -> Vec<ExportInfo> {
        let describe = |entry: &Rc<Entry>| ExportInfo {
            id: entry.id.as_str().to_owned(),
            kind: match entry.served {
                Served::Nbd { .. } => ExportType::Nbd,
                Served::VhostUser(_) => ExportType::VhostUserBlk,
            },
            node_name: match &entry.what {
                Exported::Disk(disk) => disk.root().name().to_owned(),
                Exported::Layer { layer, .. } => layer.name().to_owned(),
            },
            shutting_down: entry.shutting_down.get(),
        };
        self.exports.entries.borrow().iter().map(describe).collect()
    }
}

/// Refuses writing where it cannot be, or where two would write without knowing of each other.
fn check_writable(disk: &GuestDisk, name: &str) -> Outcome<()> {
    let options = disk.options();
    if options.read_only {
        return Err(refused(format!(
            "Disk '{name}' is read-only: export it without writable"
        )));
    }
    if !options.device.is_empty() {
        return Err(refused(format!(
            "Disk '{name}' is in use by the guest, which would not expect others to write it: \
             export it without writable"
        )));
    }
    Ok(())
}

impl From<ServerError> for CmdError {
    fn from(error: ServerError) -> Self {
        refused(error.to_string())
    }
}
