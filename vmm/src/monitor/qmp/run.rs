//! What each command of the table does. Arguments have been checked against their types.

use serde::Serialize;
use serde_json::{Value, json};
use strata_block::api::{Cmd, CmdError, DiskName, ErrorClass, OnError, Reply};

use super::args::Args;
use super::{Context, Outcome, Returned, generic, table, version};
use crate::monitor::hmp;
use crate::monitor::json::print;
use crate::monitor::machine::{Action, RunState};
use crate::monitor::step::Step;

pub(super) type Started = Result<Step<Outcome>, CmdError>;

/// Has the machine do something that returns nothing.
fn act(action: Action) -> Started {
    Ok(Step::ask(action, |result| result.map(|_| json!({}).into())))
}

pub(super) fn block(cmd: Cmd) -> Started {
    act(Action::Block(cmd))
}

/// A verb of the `job-*` family, whose answer to an unknown id differs from `block-job-*`.
fn job(cmd: Cmd) -> Started {
    Ok(Step::ask(Action::Block(cmd), |result| match result {
        Ok(_) => Ok(json!({}).into()),
        Err(error) if error.class == ErrorClass::DeviceNotActive => Err(generic("Job not found")),
        Err(error) => Err(error),
    }))
}

/// A byte rate; QAPI declares it signed.
fn speed(args: &Args) -> Result<u64, CmdError> {
    u64::try_from(args.integer("speed").unwrap_or(0))
        .map_err(|_| generic("Parameter 'speed' expects a non-negative value"))
}

pub(super) fn qmp_capabilities(_: &Args, context: &mut Context<'_>) -> Started {
    if *context.negotiated {
        return Err(CmdError {
            class: ErrorClass::CommandNotFound,
            desc: "Capabilities negotiation is already complete, command ignored".to_owned(),
        });
    }
    *context.negotiated = true;
    Ok(Step::Done(Ok(json!({}).into())))
}

/// What `device` and `node-name` call a disk by.
fn disk_name(args: &Args) -> Result<DiskName, CmdError> {
    let name = DiskName {
        device: args.text("device"),
        node_name: args.text("node-name"),
    };
    if name.names().next().is_none() {
        return Err(generic(format!("Cannot find {name}")));
    }
    Ok(name)
}

pub(super) fn blockdev_snapshot_sync(args: &Args, _: &mut Context<'_>) -> Started {
    let snapshot_node_name = args.text("snapshot-node-name");
    let device = disk_name(args)?;
    if device.node_name.is_some() && snapshot_node_name.is_none() {
        return Err(generic("New overlay node-name missing"));
    }
    block(Cmd::SnapshotSync {
        device,
        snapshot_file: args.required_text("snapshot-file"),
        snapshot_node_name,
        format: args.text("format").unwrap_or_else(|| "qcow2".to_owned()),
        existing: args.text("mode").as_deref() == Some("existing"),
    })
}

pub(super) fn block_resize(args: &Args, _: &mut Context<'_>) -> Started {
    let device = disk_name(args)?;
    let size = u64::try_from(args.integer("size").unwrap_or(-1))
        .map_err(|_| generic("Parameter 'size' expects a >0 size"))?;
    block(Cmd::Resize { device, size })
}

pub(super) fn block_stream(args: &Args, _: &mut Context<'_>) -> Started {
    let (base, base_node) = (args.text("base"), args.text("base-node"));
    if base.is_some() && base_node.is_some() {
        return Err(generic(
            "'base' and 'base-node' cannot be specified at the same time",
        ));
    }
    let backing_file = args.text("backing-file");
    if base.is_none() && base_node.is_none() && backing_file.is_some() {
        return Err(generic(
            "backing file specified, but streaming the entire chain",
        ));
    }
    block(Cmd::Stream {
        job_id: args.text("job-id"),
        device: args.required_text("device"),
        base,
        base_node,
        backing_file,
        speed: speed(args)?,
        on_error: match args.text("on-error").as_deref() {
            Some("ignore") => OnError::Ignore,
            Some("enospc") => OnError::Enospc,
            Some("stop") => OnError::Stop,
            Some("auto") => OnError::Auto,
            _ => OnError::Report,
        },
        auto_finalize: args.flag("auto-finalize", true),
        auto_dismiss: args.flag("auto-dismiss", true),
    })
}

pub(super) fn block_job_set_speed(args: &Args, _: &mut Context<'_>) -> Started {
    block(Cmd::JobSetSpeed {
        id: args.required_text("device"),
        speed: speed(args)?,
    })
}

pub(super) fn block_job_cancel(args: &Args, _: &mut Context<'_>) -> Started {
    let force = args.flag("force", false);
    block(Cmd::JobCancel {
        id: args.required_text("device"),
        force,
    })
}

pub(super) fn block_job_pause(args: &Args, _: &mut Context<'_>) -> Started {
    block(Cmd::JobPause {
        id: args.required_text("device"),
    })
}

pub(super) fn block_job_resume(args: &Args, _: &mut Context<'_>) -> Started {
    block(Cmd::JobResume {
        id: args.required_text("device"),
    })
}

pub(super) fn block_job_finalize(args: &Args, _: &mut Context<'_>) -> Started {
    block(Cmd::JobFinalize {
        id: args.required_text("id"),
    })
}

pub(super) fn block_job_dismiss(args: &Args, _: &mut Context<'_>) -> Started {
    block(Cmd::JobDismiss {
        id: args.required_text("id"),
    })
}

pub(super) fn job_pause(args: &Args, _: &mut Context<'_>) -> Started {
    job(Cmd::JobPause {
        id: args.required_text("id"),
    })
}

pub(super) fn job_resume(args: &Args, _: &mut Context<'_>) -> Started {
    job(Cmd::JobResume {
        id: args.required_text("id"),
    })
}

pub(super) fn job_cancel(args: &Args, _: &mut Context<'_>) -> Started {
    job(Cmd::JobCancel {
        id: args.required_text("id"),
        force: true,
    })
}

pub(super) fn job_finalize(args: &Args, _: &mut Context<'_>) -> Started {
    job(Cmd::JobFinalize {
        id: args.required_text("id"),
    })
}

pub(super) fn job_dismiss(args: &Args, _: &mut Context<'_>) -> Started {
    job(Cmd::JobDismiss {
        id: args.required_text("id"),
    })
}

/// Has the block layer list something, and picks the list out of its reply.
pub(super) fn query<T: Serialize + 'static>(
    cmd: Cmd,
    pick: fn(Reply) -> Option<Vec<T>>,
) -> Started {
    Ok(Step::ask(Action::Block(cmd), move |result| {
        Ok(express(&pick(result?).unwrap_or_default())?.into())
    }))
}

fn express(reply: &impl Serialize) -> Result<Value, CmdError> {
    serde_json::to_value(reply)
        .map_err(|error| generic(format!("The reply cannot be expressed: {error}")))
}

pub(super) fn query_block(_: &Args, _: &mut Context<'_>) -> Started {
    Ok(Step::ask(Action::Block(Cmd::QueryBlock), |result| {
        let Reply::Block(disks) = result? else {
            return Ok(json!([]).into());
        };
        let mut disks = express(&disks)?;
        for disk in disks.as_array_mut().into_iter().flatten() {
            if let Some(inserted) = disk.get_mut("inserted") {
                add_limits(inserted);
            }
        }
        Ok(disks.into())
    }))
}

/// Each layer describes those below it: printed one by one, since all of it as values would take
/// hundreds of megabytes for a long chain.
pub(super) fn query_named_block_nodes(args: &Args, _: &mut Context<'_>) -> Started {
    let flat = args.flag("flat", false);
    let cmd = Cmd::QueryNamedBlockNodes { flat };
    Ok(Step::ask(Action::Block(cmd), |result| {
        let Reply::NamedBlockNodes(nodes) = result? else {
            return Ok(json!([]).into());
        };
        let mut text = String::from("[");
        for (index, node) in nodes.iter().enumerate() {
            if index > 0 {
                text.push_str(", ");
            }
            let mut node = express(node)?;
            add_limits(&mut node);
            print(&node, &mut text);
        }
        text.push(']');
        Ok(Returned::Text(text))
    }))
}

/// `BlockDeviceInfo` has members for I/O limits and a write threshold that the schema requires;
/// there are none here.
fn add_limits(node: &mut Value) {
    let names = [
        "bps",
        "bps_rd",
        "bps_wr",
        "iops",
        "iops_rd",
        "iops_wr",
        "write_threshold",
    ];
    if let Value::Object(members) = node {
        members.extend(names.map(|name| (name.to_owned(), json!(0))));
    }
}

pub(super) fn query_block_jobs(_: &Args, _: &mut Context<'_>) -> Started {
    query(Cmd::QueryBlockJobs, |reply| match reply {
        Reply::BlockJobs(jobs) => Some(jobs),
        _ => None,
    })
}

pub(super) fn query_jobs(_: &Args, _: &mut Context<'_>) -> Started {
    query(Cmd::QueryJobs, |reply| match reply {
        Reply::Jobs(jobs) => Some(jobs),
        _ => None,
    })
}

pub(super) fn query_status(_: &Args, context: &mut Context<'_>) -> Started {
    let state = context.machine.run_state();
    let running = state == RunState::Running;
    Ok(Step::Done(Ok(
        json!({"running": running, "status": state.name()}).into(),
    )))
}

pub(super) fn query_version(_: &Args, _: &mut Context<'_>) -> Started {
    Ok(Step::Done(Ok(version().into())))
}

pub(super) fn query_commands(_: &Args, _: &mut Context<'_>) -> Started {
    let names = table::COMMANDS
        .iter()
        .map(|command| json!({"name": command.name}));
    Ok(Step::Done(Ok(names.collect::<Value>().into())))
}

pub(super) fn stop(_: &Args, _: &mut Context<'_>) -> Started {
    act(Action::Stop)
}

pub(super) fn cont(_: &Args, _: &mut Context<'_>) -> Started {
    act(Action::Cont)
}

pub(super) fn system_reset(_: &Args, _: &mut Context<'_>) -> Started {
    act(Action::SystemReset)
}

pub(super) fn system_powerdown(_: &Args, _: &mut Context<'_>) -> Started {
    act(Action::SystemPowerdown)
}

pub(super) fn quit(_: &Args, _: &mut Context<'_>) -> Started {
    act(Action::Quit)
}

/// `cpu-index` is accepted for the clients that always send it; no command looks at one CPU.
pub(super) fn human_monitor_command(args: &Args, context: &mut Context<'_>) -> Started {
    let step = hmp::execute(&args.required_text("command-line"), context.machine);
    Ok(step.map(|text| Ok(Value::String(text).into())))
}
