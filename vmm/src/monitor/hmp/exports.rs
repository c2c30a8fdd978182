//! What the commands about the NBD server and its exports do.

use strata_block::api::{Cmd, NbdServerAdd, NbdServerRemove, NbdServerStart, RemoveMode, Writable};
use strata_storage::nbd::wire::Address;

use super::{args::Args, run::block};
use crate::monitor::{machine::Machine, step::Step};

/// The address may lack its `tcp:`, as in QEMU.
pub(super) fn nbd_server_start(args: &Args, _: &dyn Machine) -> Step<String> {
    let text = args.required_text("uri");
    let address: Result<Address, _> = text.parse();
    let address = match address.or_else(|error| format!("tcp:{text}").parse().map_err(|_| error)) {
        Ok(address) => address,
        Err(error) => return Step::Done(format!("Error: {error}\n")),
    };
    let (all, writable) = (args.has('a'), args.has('w'));
    if writable && !all {
        return Step::Done("Error: -w only valid together with -a\n".to_owned());
    }
    block(Cmd::NbdServerStart(NbdServerStart {
        all: all.then_some(Writable(writable)),
        ..NbdServerStart::at(address)
    }))
}

pub(super) fn nbd_server_add(args: &Args, _: &dyn Machine) -> Step<String> {
    block(Cmd::NbdServerAdd(NbdServerAdd {
        device: args.required_text("device"),
        name: args.text("name"),
        writable: args.has('w').then_some(true),
        ..NbdServerAdd::default()
    }))
}

pub(super) fn nbd_server_remove(args: &Args, _: &dyn Machine) -> Step<String> {
    block(Cmd::NbdServerRemove(NbdServerRemove {
        name: args.required_text("name"),
        mode: args.has('f').then_some(RemoveMode::Hard),
    }))
}

pub(super) fn nbd_server_stop(_: &Args, _: &dyn Machine) -> Step<String> {
    block(Cmd::NbdServerStop)
}
