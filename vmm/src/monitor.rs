//! The monitor: one thread that speaks QMP and HMP to clients and passes values to the machine.
//!
//! ```text
//! client ──bytes──▶ session (QMP or HMP) ──Action──▶ Machine (the device thread)
//!        ◀─bytes──         server loop   ◀─Answer, Notice── mailbox
//! ```
//!
//! The thread never waits for the machine. An [`Action`] goes out with an [`Answer`] to fill in;
//! until that comes back through the mailbox, only the client that asked waits. Requests of one
//! client are answered in order, and an event is delivered in the order in which the machine sent
//! it relative to its answers (so that, as in QEMU, `STOP` precedes the reply to `stop`).
//!
//! Memory is bounded whatever a client does:
//!
//! | what | limit | beyond it |
//! |---|---|---|
//! | clients of one endpoint | [`MAX_CLIENTS`] | the oldest that never sent a request is cut off; if all have, the new one |
//! | bytes read ahead of execution | [`MAX_READ_AHEAD`] | not read until earlier requests are done |
//! | one QMP request | [`MAX_REQUEST`] bytes, [`MAX_NESTING`] levels | an error; past the size the client is cut off |
//! | one HMP line | [`MAX_LINE`] bytes | the line is discarded, with an error |
//! | replies that a client does not read | [`REPLY_BACKLOG`] bytes | its further requests wait |
//! | events that a client does not read | [`MAX_BACKLOG`] bytes | the client is cut off |

mod channel;
mod client;
mod endpoint;
mod hmp;
mod inherited;
mod json;
mod listener;
mod machine;
mod notice;
mod progress;
mod qmp;
mod server;
mod step;
mod throttle;

#[cfg(test)]
mod throttle_tests;

use std::thread::JoinHandle;

pub use endpoint::{Endpoint, EndpointError};
pub(crate) use hmp::{human_size, parse_size};
pub use listener::OpenError;
use machine::check;
pub use machine::{Action, Answer, DeviceAdd, Machine, RunState};
pub use notice::{Mailbox, Notice, Notifier, PanicAction, ShutdownCause};

/// The version of QEMU whose commands, texts and events these are.
const COMPATIBLE_VERSION: (u32, u32, u32) = (10, 0, 2);
/// What this really is.
const PACKAGE: &str = concat!("strata ", env!("CARGO_PKG_VERSION"));

/// Clients that one endpoint serves at a time.
pub const MAX_CLIENTS: usize = 64;
/// Bytes taken from a client before the requests in them have been executed.
pub const MAX_READ_AHEAD: usize = 64 * 1024;
/// Bytes of one QMP request.
pub const MAX_REQUEST: usize = 256 * 1024;
/// Depth of nested arrays and objects in a QMP request, as in QEMU.
pub const MAX_NESTING: usize = 1024;
/// Bytes of one HMP line, as in QEMU.
pub const MAX_LINE: usize = 4095;
/// Unsent bytes at which a client's next request is not yet looked at.
pub const REPLY_BACKLOG: usize = 64 * 1024;
/// Unsent bytes at which the next event finds a client that does not read, and drops it.
pub const MAX_BACKLOG: usize = 1024 * 1024;

/// The language of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// JSON, for programs (`--qmp`).
    Qmp,
    /// Lines, for people (`--monitor`).
    Hmp,
}

/// Why the monitor cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An endpoint cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Two of them are the same.
    #[error("{0} is given twice: one monitor can be there")]
    Twice(Endpoint),
    /// The thread cannot be started.
    #[error("the monitor's thread cannot be started: {0}")]
    Thread(#[source] std::io::Error),
}

/// Endpoints that have been opened: clients may connect, and wait to be served.
#[derive(Debug)]
pub struct Doors(Vec<(Protocol, listener::Opened)>);

impl Doors {
    /// Opens the endpoints. If one of them is [`Endpoint::Fd`], this is to be called before other
    /// threads are started and before any stream socket is made.
    ///
    /// # Errors
    /// An endpoint cannot be opened; none of them is then.
    pub fn open(endpoints: &[(Protocol, Endpoint)]) -> Result<Doors, StartError> {
        for (index, (_, endpoint)) in endpoints.iter().enumerate() {
            if endpoints[..index]
                .iter()
                .any(|(_, other)| other == endpoint)
            {
                return Err(StartError::Twice(endpoint.clone()));
            }
        }
        // Inherited descriptors first: later numbers are those of sockets made here.
        let mut ordered: Vec<_> = endpoints.iter().collect();
        ordered.sort_by_key(|(_, endpoint)| !matches!(endpoint, Endpoint::Fd(_)));
        let mut doors = Vec::new();
        for (protocol, endpoint) in ordered {
            doors.push((*protocol, listener::open(endpoint)?));
        }
        Ok(Doors(doors))
    }
}

/// The running monitor. Dropped, it sends what is queued (waiting up to a second for clients that
/// are slow to take it), disconnects everybody, removes its sockets and ends its thread.
#[derive(Debug)]
pub struct Monitor {
    notifier: Notifier,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Starts to serve those who come through `doors`.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        doors: Doors,
        machine: Box<dyn Machine>,
        mailbox: Mailbox,
    ) -> Result<Monitor, StartError> {
        let notifier = mailbox.notifier();
        let mut server = server::Server::new(machine, mailbox);
        for (protocol, opened) in doors.0 {
            server.add(protocol, opened);
        }
        let thread = std::thread::Builder::new()
            .name("monitor".to_owned())
            .spawn(move || server.run())
            .map_err(StartError::Thread)?;
        Ok(Monitor {
            notifier,
            thread: Some(thread),
        })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.notifier.post(notice::Message::Close);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by its hook.
            let _ = thread.join();
        }
    }
}
