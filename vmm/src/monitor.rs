//! The monitor: one thread that speaks QMP and HMP to clients and passes values to the machine.
//!
//! ```text
//! client ──bytes──▶ session (QMP or HMP) ──Action──▶ Machine (the device thread)
//!        ◀─bytes──         server loop   ◀─Answer, Notice── mailbox
//! ```
//!
//! The thread never waits for the machine. An [`Action`] goes out with an [`Answer`] to fill in;
//! until that comes back through the mailbox, only the client that asked waits. Requests of one
//! client are answered in order, and an event is delivered in the order in which the machine told
//! it relative to its answers (so that, as in QEMU, `STOP` precedes the reply to `stop`).
//!
//! Memory is bounded whatever a client does:
//!
//! | what | limit | beyond it |
//! |---|---|---|
//! | clients of one endpoint | [`MAX_CLIENTS`] | the new connection is closed |
//! | bytes read ahead of execution | [`MAX_READ_AHEAD`] | not read until earlier requests are done |
//! | one QMP request | [`MAX_REQUEST`] bytes, [`MAX_NESTING`] levels | an error; past the size the client is cut off |
//! | one HMP line | [`MAX_LINE`] bytes | the line is discarded, with an error |
//! | replies that a client does not read | [`REPLY_BACKLOG`] bytes | its further requests wait |
//! | events that a client does not read | [`MAX_BACKLOG`] bytes | the client is cut off |

mod endpoint;
mod machine;
mod notice;

pub use endpoint::{Endpoint, EndpointError};
pub use machine::{Action, Answer, Machine, RunState};
pub use notice::{Mailbox, Notice, Notifier, ShutdownCause};

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
