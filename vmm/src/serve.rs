//! `strata serve`: disks, jobs and the monitor as in a machine, with network exports in the
//! place of a guest.
//!
//! The thread that calls [`run`] becomes the device thread. There is no device, so that its loop
//! is the block layer's own executor; the monitor and signals reach it through a [`mailbox`].

mod mailbox;

use std::{io, rc::Rc};

use strata_block::{
    api::{CmdError, ErrorClass, Reply},
    engine::Engine,
};
use strata_exec::{Executor, Queue, inbox::WatchedInbox};
use strata_storage::nbd::wire::Address;

use self::mailbox::{Handle, Message};
use crate::{
    cli::{
        ServeArgs,
        disk::{DiskOption, Interface, Numbering},
        export::ExportOption,
        temporary::TemporaryArgs,
    },
    machine::disks::{DiskError, spec},
    monitor::{self, Action, Answer, Doors, Mailbox, Monitor, Notice, ShutdownCause},
    vhost_user,
};

/// Why nothing could be served, or what went wrong at the end; one line for people.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// An export.
    #[error("export of {disk}: {source}")]
    Export {
        /// The disk.
        disk: String,
        /// Why not.
        source: CmdError,
    },
    /// An object.
    #[error("object {id}: {source}")]
    Object {
        /// Its id.
        id: String,
        /// Why not.
        source: CmdError,
    },
    /// The directory of `--state-dir`.
    #[error("--state-dir: {0}")]
    State(strata_storage::error::Error),
    /// The monitor.
    #[error(transparent)]
    Monitor(#[from] monitor::StartError),
    /// A socket or an eventfd.
    #[error("could not {what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The host's error.
        source: io::Error,
    },
    /// Disks that could not be flushed or closed at the end.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Closing(Vec<strata_storage::error::Error>),
}

/// Says what was tried when a host call failed.
fn host(what: &'static str) -> impl Fn(io::Error) -> ServeError {
    move |source| ServeError::Host { what, source }
}

/// Serves until a monitor or a signal ends it. Tells on standard error where each export is.
///
/// # Errors
/// [`ServeError`].
pub fn run(args: &ServeArgs) -> Result<(), ServeError> {
    // First of all: inherited descriptors must still be those that were passed in.
    let doors = Doors::open(&args.all_monitors())?;
    let news = Mailbox::new().map_err(host("make an eventfd"))?;
    let notifier = news.notifier();
    let exec = Executor::new().map_err(host("make an eventfd"))?;
    let (handle, inbox) = mailbox::open(&exec).map_err(host("catch signals"))?;
    let clients = notifier.clone();
    let engine = Engine::on(exec, move |event| clients.notify(Notice::Block(event)));
    engine.serve_vhost_user_with(vhost_user::serve);
    let inbox = Rc::new(inbox);
    let mut served = serve_all(args, &engine, doors, handle, news, inbox.clone());
    if let Ok((end, _)) = &mut served {
        notifier.notify(Notice::Shutdown(end.cause));
        if let Some(answer) = end.answer.take() {
            answer.send(Ok(Reply::Done));
        }
        attend_to_the_end(&engine, inbox);
    }
    // Also where the start failed: what listens already would leave its socket behind.
    let errors = engine.shut_down();
    served?;
    if errors.is_empty() {
        Ok(())
    } else {
        Err(ServeError::Closing(errors))
    }
}

/// Why nothing is served any more.
struct End {
    cause: ShutdownCause,
    /// The client that has asked for it, to be answered once its event is sent.
    answer: Option<Answer>,
}

/// Opens what `args` name, and serves it until a monitor or a signal ends it. The monitor that is
/// returned with the cause serves its clients until it is dropped.
fn serve_all(
    args: &ServeArgs,
    engine: &Rc<Engine>,
    doors: Doors,
    handle: Handle,
    news: Mailbox,
    inbox: Rc<WatchedInbox<Message>>,
) -> Result<(End, Monitor), ServeError> {
    open_disks(engine, &args.disks, &args.temporary)?;
    args.state.keep_jobs(engine).map_err(ServeError::State)?;
    let monitor = Monitor::start(doors, Box::new(handle), news)?;
    for object in &args.objects {
        let added = engine.add_tls_creds(&object.id, &object.creds);
        added.map_err(|source| ServeError::Object {
            id: object.id.clone(),
            source,
        })?;
    }
    for export in &args.exports {
        start_export(engine, export)?;
    }
    Ok((serve(engine, inbox), monitor))
}

/// Opens `disks`, under the names that they would have in a machine.
fn open_disks(
    engine: &Rc<Engine>,
    disks: &[DiskOption],
    temporary: &TemporaryArgs,
) -> Result<(), DiskError> {
    let mut numbering = Numbering::default();
    let mut ids = Vec::new();
    for option in disks {
        let place = numbering.place(option);
        let id = place.id.clone();
        if ids.contains(&id) {
            return Err(DiskError::NameTaken(id));
        }
        if option.is_empty() {
            return Err(DiskError::NoFile(id));
        }
        if let Some(key) = option.key_of_device() {
            return Err(DiskError::NoGuest { id, key });
        }
        // No device is there to attach it to.
        let interface = Interface::None;
        let option = DiskOption {
            interface,
            ..option.clone()
        };
        let opened = engine.open_disk(spec(&option, &place, temporary));
        opened.map_err(|source| DiskError::Open {
            id: id.clone(),
            source,
        })?;
        ids.push(id);
    }
    Ok(())
}

fn start_export(engine: &Rc<Engine>, export: &ExportOption) -> Result<(), ServeError> {
    let failed = |disk: &str, source| ServeError::Export {
        disk: disk.to_owned(),
        source,
    };
    match export {
        ExportOption::Nbd {
            address,
            tls_creds,
            spec,
        } => {
            let listening = engine.export_at(address, tls_creds.as_deref(), spec.clone());
            let address = listening.map_err(|source| failed(&spec.disk, source))?;
            let name = spec.name.as_ref().unwrap_or(&spec.disk);
            let uri = uri(&address, name, tls_creds.is_some());
            eprintln!("strata: serving {} at {uri}", spec.disk);
        }
        ExportOption::VhostUser { id, disk, spec } => {
            let added = engine.add_vhost_user(id.clone(), disk, spec);
            added.map_err(|source| failed(disk, source))?;
            let path = spec.path.display();
            eprintln!("strata: serving {disk} as a vhost-user-blk device at unix:{path}");
        }
    }
    Ok(())
}

/// What clients such as `nbdinfo` and `qemu-img` take.
fn uri(address: &Address, name: &str, tls: bool) -> String {
    let name = escape(name);
    let nbd = if tls { "nbds" } else { "nbd" };
    match address {
        Address::Unix(path) => {
            let path = escape(&path.to_string_lossy());
            format!("{nbd}+unix:///{name}?socket={path}")
        }
        Address::Tcp { host, port } if host.contains(':') => {
            format!("{nbd}://[{host}]:{port}/{name}")
        }
        Address::Tcp { host, port } => format!("{nbd}://{host}:{port}/{name}"),
    }
}

/// Percent-encodes what has a meaning in a URI.
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    text.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

/// Does what monitors ask for until one of them, or a signal, ends it.
fn serve(engine: &Rc<Engine>, inbox: Rc<WatchedInbox<Message>>) -> End {
    let exec = engine.exec().clone();
    let engine = engine.clone();
    exec.block_on(async move {
        loop {
            match inbox.next().await {
                // Without senders nobody is left who could end it.
                Some(Message::Signal) | None => {
                    let (cause, answer) = (ShutdownCause::Signal, None);
                    return End { cause, answer };
                }
                Some(Message::Action(action, answer)) if matches!(*action, Action::Quit) => {
                    let (cause, answer) = (ShutdownCause::Quit, Some(answer));
                    return End { cause, answer };
                }
                Some(Message::Action(action, answer)) => act(&engine, *action, answer),
            }
        }
    })
}

/// Answers monitors while everything comes to its end. Who asks for it once more does not want to
/// wait for servers that have gone.
fn attend_to_the_end(engine: &Rc<Engine>, inbox: Rc<WatchedInbox<Message>>) {
    let attended = engine.clone();
    engine
        .exec()
        .spawn_named(Queue::Guest, "messages until the end", async move {
            while let Some(message) = inbox.next().await {
                match message {
                    Message::Signal => attended.give_up_on_servers(),
                    Message::Action(action, answer) if matches!(*action, Action::Quit) => {
                        attended.give_up_on_servers();
                        answer.send(Ok(Reply::Done));
                    }
                    Message::Action(action, answer) => act(&attended, *action, answer),
                }
            }
        });
}

fn act(engine: &Rc<Engine>, action: Action, answer: Answer) {
    if let Action::Block(command) = action {
        let reply = move |result: Result<Reply, CmdError>| answer.send(result);
        return engine.execute(*command, Box::new(reply));
    }
    answer.send(Err(CmdError {
        class: ErrorClass::GenericError,
        desc: "There is no guest: strata serve has disks only".into(),
    }));
}

#[cfg(test)]
mod tests;
