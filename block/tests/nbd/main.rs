//! The NBD server under other people's clients, and under rude ones. Needs Debian's `libnbd-bin`,
//! `python3-libnbd`, `qemu-utils` and `fio`.

mod clients;
mod extended;
mod hand;
mod rude;
mod served;
