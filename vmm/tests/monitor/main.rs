//! The monitor's real thread, over real sockets, in front of a machine that is only pretended.

#![allow(clippy::unwrap_used)]

mod bitmaps;
mod client;
mod endpoints;
mod exports;
mod fake;
mod progress;
mod rude;
mod slow;
mod stdio;
mod transcript;
