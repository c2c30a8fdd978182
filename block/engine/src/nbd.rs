//! A server for the NBD protocol (fixed newstyle; the NBD project's `doc/proto.md`): disks on the
//! network, for other people's clients.
//!
//! An export sits on a [`Disk`](strata_graph::disk::Disk) as a device does, on the device thread.
//! So snapshots, merges and draining work under connected clients, and all connections to an export
//! share what the disk has acknowledged (multi-conn).
//!
//! Memory is bounded: a client has at most 64 requests under way or answered and not yet sent,
//! which take 32 MiB at most, and buffers of 8 KiB; beyond that nothing is received from it until
//! it has read its replies. Each has 256 KiB to itself, and all clients of a server share 192 MiB;
//! while others wait for that, a client that holds some and has not taken or sent a byte for 5
//! seconds is disconnected. TLS adds its buffers: at most 64 KiB out and one record in. A server
//! has at most 256 clients. Idle ones cost their 8 KiB. A client that has not chosen an export
//! after 10 seconds is disconnected, or after 2 where others wait for its place. One that has may
//! be idle for as long as it likes.

mod context;
mod execute;
mod export;
mod handshake;
mod listener;
mod option;
mod reply;
mod request;
mod server;
mod session;

pub use export::{Export, MAX_BITMAPS};
pub(crate) use listener::listen;
pub use server::{Server, ServerError};
