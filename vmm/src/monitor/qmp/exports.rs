//! What the commands about the NBD server and its exports do.

use serde_json::Value;
use strata_block::{
    api::{Cmd, CmdError, ExportCmd, Reply, VhostUserSpec},
    storage::nbd::wire::Address,
};
use strata_devices::vhost_user::MAX_QUEUES;

use super::{
    Context,
    args::Args,
    bitmaps::references,
    generic,
    run::{Started, block, query},
};

fn export(cmd: ExportCmd) -> Started {
    block(Cmd::Export(cmd))
}

pub(super) fn nbd_server_start(args: &Args, _: &mut Context<'_>) -> Started {
    if args.text("tls-authz").is_some() {
        return Err(generic(
            "tls-authz is not available: a certificate of the CA is what counts",
        ));
    }
    let max_connections = args.integer("max-connections").unwrap_or(0);
    let max_connections = u32::try_from(max_connections)
        .map_err(|_| generic("Parameter 'max-connections' expects uint32_t"))?;
    export(ExportCmd::ServerStart {
        address: address(args)?,
        // 0 is no limit, as in QEMU.
        max_connections: Some(max_connections).filter(|max| *max > 0),
        tls_creds: args.text("tls-creds"),
        all: None,
    })
}

/// `SocketAddressLegacy`: `{"type": "unix", "data": {"path": ...}}` or
/// `{"type": "inet", "data": {"host": ..., "port": "..."}}`.
fn address(args: &Args) -> Result<Address, CmdError> {
    let member = |name: &str| {
        let data = args.member("addr", "data");
        let text = data.and_then(|data| data.get(name)).and_then(Value::as_str);
        text.ok_or_else(|| generic(format!("Parameter 'addr.data.{name}' is missing")))
    };
    match args.member("addr", "type").and_then(Value::as_str) {
        Some("unix") => Ok(Address::Unix(member("path")?.into())),
        Some("inet") => {
            let (host, port) = (member("host")?, member("port")?);
            let bad = |_| generic(format!("'{port}' is not a TCP port"));
            Ok(Address::Tcp {
                host: host.to_owned(),
                port: port.parse().map_err(bad)?,
            })
        }
        Some(other) => {
            let desc = format!("Parameter 'addr.type' does not accept value '{other}'");
            Err(generic(desc))
        }
        None => Err(generic("Parameter 'addr.type' is missing")),
    }
}

pub(super) fn nbd_server_add(args: &Args, _: &mut Context<'_>) -> Started {
    export(ExportCmd::ServerAdd {
        device: args.required_text("device"),
        name: args.text("name"),
        description: args.text("description"),
        writable: args.flag("writable", false),
        bitmap: args.text("bitmap"),
    })
}

pub(super) fn nbd_server_remove(args: &Args, _: &mut Context<'_>) -> Started {
    export(ExportCmd::ServerRemove {
        name: args.required_text("name"),
        hard: hard(args),
    })
}

pub(super) fn nbd_server_stop(_: &Args, _: &mut Context<'_>) -> Started {
    export(ExportCmd::ServerStop)
}

/// The contexts of an export are always offered, so that `allocation-depth` changes nothing.
pub(super) fn block_export_add(args: &Args, _: &mut Context<'_>) -> Started {
    if args.flag("writethrough", false) {
        return Err(generic(
            "writethrough is not available for exports: give the disk cache=writethrough",
        ));
    }
    if args.required_text("type") == "vhost-user-blk" {
        return export(ExportCmd::AddVhostUser {
            id: args.required_text("id"),
            node_name: args.required_text("node-name"),
            spec: vhost_user(args)?,
        });
    }
    export(ExportCmd::Add {
        id: args.required_text("id"),
        node_name: args.required_text("node-name"),
        name: args.text("name"),
        description: args.text("description"),
        writable: args.flag("writable", false),
        bitmaps: references(args, "bitmaps")?,
    })
}

/// `BlockExportOptionsVhostUserBlk`; `addr` is a `SocketAddress`: `{"type": "unix", "path": ...}`.
fn vhost_user(args: &Args) -> Result<VhostUserSpec, CmdError> {
    let member = |name| args.member("addr", name).and_then(Value::as_str);
    if member("type").is_some_and(|kind| kind != "unix") {
        return Err(generic("vhost-user exports listen at unix sockets only"));
    }
    let path = member("path").ok_or_else(|| generic("Parameter 'addr.path' is missing"))?;
    if args.integer("logical-block-size").is_some_and(|n| n != 512) {
        return Err(generic(
            "Parameter 'logical-block-size' expects 512: disks have sectors of 512 bytes",
        ));
    }
    let queues = args.integer("num-queues").unwrap_or(1);
    let queues = u16::try_from(queues)
        .ok()
        .filter(|n| (1..=MAX_QUEUES).contains(n));
    let out_of_range = || generic(format!("Parameter 'num-queues' expects 1 to {MAX_QUEUES}"));
    Ok(VhostUserSpec {
        path: path.into(),
        queues: queues.ok_or_else(out_of_range)?,
        writable: args.flag("writable", false),
    })
}

pub(super) fn block_export_del(args: &Args, _: &mut Context<'_>) -> Started {
    export(ExportCmd::Delete {
        id: args.required_text("id"),
        hard: hard(args),
    })
}

pub(super) fn query_block_exports(_: &Args, _: &mut Context<'_>) -> Started {
    query(Cmd::Export(ExportCmd::Query), |reply| match reply {
        Reply::Exports(exports) => Some(exports),
        _ => None,
    })
}

fn hard(args: &Args) -> bool {
    args.text("mode").as_deref() == Some("hard")
}
