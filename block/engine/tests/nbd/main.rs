//! The NBD server under other people's clients and under rude ones, and the client in front of
//! other people's servers and of ones that go away. Needs Debian's `libnbd-bin`, `python3-libnbd`,
//! `nbdkit`, `qemu-utils` and `fio`.

#![allow(clippy::unwrap_used)]

mod away;
mod bitmaps;
mod certificates;
mod clients;
mod extended;
mod hand;
mod liar;
mod load;
mod odd;
mod proxy;
mod rude;
mod served;
mod servers;
mod tls;
mod tls_by_hand;
