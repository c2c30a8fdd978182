//! The server: a listening socket, its exports and its clients.

mod memory;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    rc::Rc,
    time::{Duration, Instant},
};

use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown, sockopt};
use strata_exec::{
    Executor, Queue, Watched,
    sync::{Budget, WaitQueue},
};
use strata_storage::nbd::wire::{
    Address, TlsServer, proto,
    stream::{Gone, Reader, Stream},
};

use super::{Export, handshake, listener::listen, session};
use crate::unix_socket::SocketFile;

/// Clients at a time at most; one more has been accepted and waits, others are in the socket's
/// backlog.
const MAX_CLIENTS: usize = 256;

/// A client that has not chosen an export by then is let go. (QEMU's servers give as much.)
const HANDSHAKE_TIME: Duration = Duration::from_secs(10);

/// The same where somebody waits for its place.
const CROWDED_TIME: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 2000 });

/// A client that has not read its last replies by then is let go.
const GRACE: Duration = Duration::from_secs(2);

/// How long to rest after the host could not give us a new connection.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// A server that could not be started, or an export that could not be added or removed.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The socket.
    #[error("could not listen at {address}: {source}")]
    Listen {
        /// Where.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// An export of that name exists.
    #[error("NBD server already has export named '{0}'")]
    NameTaken(String),
    /// A name that the protocol cannot carry.
    #[error("an export name has at most 4096 bytes and no NUL")]
    BadName,
    /// No such export.
    #[error("Export '{0}' is not found")]
    NoSuchExport(String),
    /// Somebody uses the export.
    #[error("export '{0}' still in use: disconnect its clients, or use mode=hard")]
    InUse(String),
}

/// An NBD server on the device thread.
pub struct Server {
    exec: Rc<Executor>,
    wanted_address: Address,
    address: Address,
    socket: Watched<OwnedFd>,
    file: RefCell<Option<SocketFile>>,
    max_clients: usize,
    /// What clients have to start before anything else.
    tls: Option<TlsServer>,
    exports: RefCell<Vec<Rc<Export>>>,
    clients: RefCell<BTreeMap<u64, Rc<Client>>>,
    next_client: Cell<u64>,
    /// For the requests of all clients.
    memory: Budget,
    /// Somebody looks for clients that keep memory from others.
    watching: Cell<bool>,
    closing: Cell<bool>,
    changed: WaitQueue,
}

/// A connected client.
pub(super) struct Client {
    pub stream: Rc<Stream>,
    since: Instant,
    /// Somebody has waited for its place.
    hurried: Cell<bool>,
    /// What it has chosen.
    export: RefCell<Option<Rc<Export>>>,
    /// Bytes of memory that its requests take, and have taken at most.
    pub held: Cell<u64>,
    pub most: Cell<u64>,
    closing: Cell<bool>,
}

impl Server {
    /// Starts to listen at `address`, for `max_clients` at a time (fewer if that is too many). With
    /// `tls`, only for those who start it. No export yet.
    ///
    /// # Errors
    /// The host's error.
    pub async fn start(
        exec: &Rc<Executor>,
        address: Address,
        max_clients: Option<u32>,
        tls: Option<TlsServer>,
    ) -> Result<Rc<Self>, ServerError> {
        let wanted_address = address.clone();
        let failed = |source| ServerError::Listen {
            address: wanted_address.clone(),
            source,
        };
        // The resolver may take its time.
        let opened = exec.helpers().run(move || listen(address)).await;
        let opened = opened.and_then(|listener| {
            rustix::io::ioctl_fionbio(&listener.socket, true)?;
            Ok((
                Watched::new(exec, listener.socket)?,
                listener.address,
                listener.file,
            ))
        });
        let (socket, address, file) = opened.map_err(failed)?;
        let server = Rc::new(Self {
            exec: exec.clone(),
            wanted_address,
            address,
            socket,
            file: RefCell::new(file),
            max_clients: max_clients.map_or(MAX_CLIENTS, |max| MAX_CLIENTS.min(max as usize)),
            tls,
            exports: RefCell::default(),
            clients: RefCell::default(),
            next_client: Cell::default(),
            memory: Budget::new(memory::TOTAL),
            watching: Cell::default(),
            closing: Cell::default(),
            changed: WaitQueue::default(),
        });
        exec.spawn_named(
            Queue::Guest,
            "NBD server: clients to come",
            server.clone().accept_clients(),
        );
        Ok(server)
    }

    pub(super) fn exec(&self) -> &Rc<Executor> {
        &self.exec
    }

    /// Where it listens, with the port that the host chose in place of 0.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What clients have to start before anything else.
    pub(crate) fn tls(&self) -> Option<&TlsServer> {
        self.tls.as_ref()
    }

    /// Where it was asked to listen.
    pub(crate) fn wanted_address(&self) -> &Address {
        &self.wanted_address
    }

    /// Its exports, in the order in which they were added.
    pub fn exports(&self) -> Vec<Rc<Export>> {
        self.exports.borrow().clone()
    }

    /// Adds an export.
    ///
    /// # Errors
    /// That its name is taken, or cannot be one.
    pub fn add(&self, export: Export) -> Result<Rc<Export>, ServerError> {
        if export.name.len() > proto::MAX_STRING || export.name.contains('\0') {
            return Err(ServerError::BadName);
        }
        let mut exports = self.exports.borrow_mut();
        if exports.iter().any(|other| other.name == export.name) {
            return Err(ServerError::NameTaken(export.name));
        }
        let export = Rc::new(export);
        exports.push(export.clone());
        Ok(export)
    }

    /// Removes the export called `name`. With `hard`, clients that use it are sent away after what
    /// they have asked for is done.
    ///
    /// # Errors
    /// That there is none, or, without `hard`, that clients use it.
    pub fn remove(&self, name: &str, hard: bool) -> Result<(), ServerError> {
        let found = self.exports.borrow().iter().position(|e| e.name == name);
        let index = found.ok_or_else(|| ServerError::NoSuchExport(name.to_owned()))?;
        let export = self.exports.borrow()[index].clone();
        let users = self.users(&export);
        if !users.is_empty() && !hard {
            return Err(ServerError::InUse(name.to_owned()));
        }
        self.exports.borrow_mut().remove(index);
        self.send_away(&users);
        Ok(())
    }

    /// Waits until no client uses `export` any more.
    pub(crate) async fn unused(&self, export: &Rc<Export>) {
        while !self.users(export).is_empty() {
            self.changed.wait().await;
        }
    }

    /// Stops to listen, sends every client away after what it has asked for is done, and ends when
    /// the last has gone.
    pub async fn stop(&self) {
        self.closing.set(true);
        self.file.take();
        // Ends the wait for clients.
        let _ = shutdown(self.socket.get(), Shutdown::Both);
        let clients: Vec<_> = self.clients.borrow().values().cloned().collect();
        self.send_away(&clients);
        self.exports.take();
        self.changed.wake_all();
        while !self.clients.borrow().is_empty() {
            self.changed.wait().await;
        }
    }

    /// The export that a client means by `name`. An empty name is also the only export.
    pub(super) fn find(&self, name: &str) -> Option<Rc<Export>> {
        let exports = self.exports.borrow();
        let only = match exports.as_slice() {
            [only] if name.is_empty() => Some(only),
            _ => None,
        };
        exports.iter().find(|e| e.name == name).or(only).cloned()
    }

    fn users(&self, export: &Rc<Export>) -> Vec<Rc<Client>> {
        let uses = |client: &&Rc<Client>| {
            let chosen = client.export.borrow();
            chosen.as_ref().is_some_and(|e| Rc::ptr_eq(e, export))
        };
        self.clients
            .borrow()
            .values()
            .filter(uses)
            .cloned()
            .collect()
    }

    fn send_away(&self, clients: &[Rc<Client>]) {
        for client in clients {
            client.closing.set(true);
            client.stream.stop_receiving();
            self.break_off_at(client, Instant::now() + GRACE, |_| true);
        }
    }

    /// Ends the connection at `deadline` if it still stands and `condition` holds then.
    fn break_off_at(
        &self,
        client: &Rc<Client>,
        deadline: Instant,
        condition: impl FnOnce(&Client) -> bool + 'static,
    ) {
        let (client, exec) = (Rc::downgrade(client), self.exec.clone());
        self.exec
            .spawn_named(Queue::Guest, "NBD server: a client's time", async move {
                exec.sleep_until(deadline).await;
                if let Some(client) = client.upgrade().filter(|client| condition(client)) {
                    client.stream.break_off();
                }
            });
    }

    async fn accept_clients(self: Rc<Self>) {
        while !self.closing.get() {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let accepted = self
                .socket
                .readable(|socket| Ok(accept_with(socket, flags)?));
            let accepted = accepted.await.and_then(|socket| {
                notice_death(&socket);
                Stream::new(&self.exec, socket)
            });
            match accepted {
                _ if self.closing.get() => break,
                Ok(stream) => {
                    self.wait_for_place().await;
                    if self.closing.get() {
                        break;
                    }
                    self.admit(stream);
                }
                Err(error) => {
                    tracing::warn!(address = %self.address, %error, "a client could not connect");
                    self.exec.sleep_until(Instant::now() + ACCEPT_REST).await;
                }
            }
        }
    }

    /// Somebody has come: waits until there is a place. Those who have not chosen an export have to
    /// hurry then.
    async fn wait_for_place(&self) {
        while self.clients.borrow().len() >= self.max_clients && !self.closing.get() {
            let clients: Vec<_> = self.clients.borrow().values().cloned().collect();
            for client in clients
                .iter()
                .filter(|client| !client.hurried.replace(true))
            {
                self.break_off_at(client, client.since + CROWDED_TIME, Client::is_choosing);
            }
            self.changed.wait().await;
        }
    }

    fn admit(self: &Rc<Self>, stream: Rc<Stream>) {
        let id = self.next_client.get();
        self.next_client.set(id + 1);
        let client = Rc::new(Client {
            stream,
            since: Instant::now(),
            hurried: Cell::default(),
            export: RefCell::default(),
            held: Cell::default(),
            most: Cell::default(),
            closing: Cell::default(),
        });
        self.clients.borrow_mut().insert(id, client.clone());
        self.break_off_at(&client, client.since + HANDSHAKE_TIME, Client::is_choosing);
        let server = self.clone();
        let name = Rc::new(format!("NBD client {id}"));
        self.exec.spawn_named(Queue::Guest, name, async move {
            match server.serve(&client).await {
                Ok(()) | Err(Gone::Closed) => tracing::debug!(id, "an NBD client has left"),
                Err(error) => tracing::info!(id, %error, "an NBD client's connection has ended"),
            }
            server.clients.borrow_mut().remove(&id);
            server.tidy_up(client.most.get());
            server.changed.wake_all();
        });
    }

    async fn serve(self: &Rc<Self>, client: &Rc<Client>) -> Result<(), Gone> {
        let mut reader = Reader::new(client.stream.clone());
        let negotiated = handshake::negotiate(self, &client.stream, &mut reader).await?;
        let Some(terms) = negotiated else {
            return Ok(());
        };
        *client.export.borrow_mut() = Some(terms.export.clone());
        if !self
            .exports
            .borrow()
            .iter()
            .any(|e| Rc::ptr_eq(e, &terms.export))
        {
            // Removed while its description was being sent to the client.
            return Ok(());
        }
        session::run(self, client, reader, terms).await
    }
}

/// Has the host look after a minute of silence whether the other side is still there: one that died
/// without a word keeps its place no longer. (Fails on a Unix socket, which needs none of it.)
fn notice_death(socket: &OwnedFd) {
    let _ = sockopt::set_tcp_keepidle(socket, Duration::from_secs(60));
    let _ = sockopt::set_tcp_keepintvl(socket, Duration::from_secs(10));
    let _ = sockopt::set_tcp_keepcnt(socket, 6);
}

impl Client {
    /// Whether it has not chosen an export yet.
    fn is_choosing(&self) -> bool {
        self.export.borrow().is_none()
    }

    /// No more requests are to be taken from it.
    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }
}
