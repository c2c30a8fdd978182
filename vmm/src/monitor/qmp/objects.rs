//! What the commands about objects do.

use strata_block::api::{Cmd, ObjectCmd, TlsCreds};

use super::args::Args;
use super::run::{Started, block};
use super::{Context, generic};

pub(super) fn object_add(args: &Args, _: &mut Context<'_>) -> Started {
    if args.text("endpoint").as_deref() == Some("client") {
        return Err(generic(
            "endpoint=client is not available: name the certificates of an nbds:// disk in its URI, \
             tls-certificates=DIR",
        ));
    }
    let dir = args.text("dir");
    let dir = dir.ok_or_else(|| generic("Parameter 'dir' is missing"))?;
    block(Cmd::Object(ObjectCmd::Add {
        id: args.required_text("id"),
        creds: TlsCreds {
            dir: dir.into(),
            verify_peer: args.flag("verify-peer", true),
        },
    }))
}

pub(super) fn object_del(args: &Args, _: &mut Context<'_>) -> Started {
    block(Cmd::Object(ObjectCmd::Delete {
        id: args.required_text("id"),
    }))
}
