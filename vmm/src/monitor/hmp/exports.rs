//! What the commands about the NBD server and its exports do.

use strata_block::{
    api::{Cmd, ExportCmd, Writable},
    storage::nbd::wire::Address,
};

use super::{args::Args, run::block};
use crate::monitor::{machine::Machine, step::Step};

fn export(cmd: ExportCmd) -> Step<String> {
    block(Cmd::Export(cmd))
}

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
    export(ExportCmd::ServerStart {
        address,
        max_connections: None,
        tls_creds: None,
        all: all.then_some(Writable(writable)),
    })
}

pub(super) fn nbd_server_add(args: &Args, _: &dyn Machine) -> Step<String> {
    export(ExportCmd::ServerAdd {
        device: args.required_text("device"),
        name: args.text("name"),
        description: None,
        writable: args.has('w'),
        bitmap: None,
    })
}

pub(super) fn nbd_server_remove(args: &Args, _: &dyn Machine) -> Step<String> {
    export(ExportCmd::ServerRemove {
        name: args.required_text("name"),
        hard: args.has('f'),
    })
}

pub(super) fn nbd_server_stop(_: &Args, _: &dyn Machine) -> Step<String> {
    export(ExportCmd::ServerStop)
}
