//! What becomes of each command, and of what the machine answers.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use strata_block::api::{BlockDeviceInfo, Cmd, CmdError, ErrorClass, Reply};

use super::arguments::NoArguments;
use super::{Context, Outcome, Returned, table, version};
use crate::cli::report::CoreOption;
use crate::monitor::json::print;
use crate::monitor::machine::{Action, DeviceAdd, RunState};
use crate::monitor::step::Step;
use crate::monitor::{check, hmp};

pub(super) type Started = Result<Step<Outcome>, CmdError>;

/// Has the machine do something that returns nothing.
fn act(action: Action) -> Started {
    Ok(Step::ask(action, |result| result.map(|_| json!({}).into())))
}

/// Has the block layer carry out a command.
pub(super) fn block(cmd: Cmd) -> Started {
    check(&cmd)?;
    Ok(Step::ask(Action::Block(Box::new(cmd)), |result| {
        returned(result?)
    }))
}

/// `return` for what the block layer answers.
fn returned(reply: Reply) -> Outcome {
    Ok(match reply {
        // HMP shows these.
        Reply::Done | Reply::Formatted(_) | Reply::Inflight(_) => json!({}).into(),
        Reply::Snapshot(snapshot) => express(&snapshot)?.into(),
        Reply::Block(disks) => {
            let mut disks = express(&disks)?;
            for disk in disks.as_array_mut().into_iter().flatten() {
                if let Some(inserted) = disk.get_mut("inserted") {
                    add_threshold(inserted);
                }
            }
            disks.into()
        }
        Reply::NamedBlockNodes(nodes) => named_block_nodes(&nodes)?,
        Reply::BlockJobs(jobs) => express(&jobs)?.into(),
        Reply::Blockstats(stats) => express(&stats)?.into(),
        Reply::Jobs(jobs) => express(&jobs)?.into(),
        Reply::Chain(chains) => express(&chains)?.into(),
        Reply::Exports(exports) => express(&exports)?.into(),
    })
}

fn express(reply: &impl Serialize) -> Result<Value, CmdError> {
    serde_json::to_value(reply)
        .map_err(|error| CmdError::generic(format!("The reply cannot be expressed: {error}")))
}

/// Each layer describes those below it: printed one by one, since all of it as values would take
/// hundreds of megabytes for a long chain.
fn named_block_nodes(nodes: &[BlockDeviceInfo]) -> Result<Returned, CmdError> {
    let mut text = String::from("[");
    for (index, node) in nodes.iter().enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        let mut node = express(node)?;
        add_threshold(&mut node);
        print(&node, &mut text);
    }
    text.push(']');
    Ok(Returned::Text(text))
}

/// `BlockDeviceInfo` has a write threshold that the schema requires; there is none here.
fn add_threshold(node: &mut Value) {
    if let Value::Object(members) = node {
        members.insert("write_threshold".to_owned(), json!(0));
    }
}

/// `qmp_capabilities`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct QmpCapabilities {
    #[serde(rename = "enable")]
    _enable: Option<Vec<QmpCapability>>,
}

/// `QMPCapability`: none of QEMU's exists here.
#[derive(Debug, Deserialize)]
enum QmpCapability {}

pub(super) fn qmp_capabilities(_: QmpCapabilities, context: &mut Context<'_>) -> Started {
    if *context.negotiated {
        return Err(CmdError {
            class: ErrorClass::CommandNotFound,
            desc: "Capabilities negotiation is already complete, command ignored".to_owned(),
        });
    }
    *context.negotiated = true;
    Ok(Step::Done(Ok(json!({}).into())))
}

/// `x-strata-job-progress`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JobProgress {
    enable: bool,
}

pub(super) fn job_progress(arguments: JobProgress, context: &mut Context<'_>) -> Started {
    *context.progress = arguments.enable;
    Ok(Step::Done(Ok(json!({}).into())))
}

pub(super) fn query_status(_: NoArguments, context: &mut Context<'_>) -> Started {
    let state = context.machine.run_state();
    let running = state == RunState::Running;
    Ok(Step::Done(Ok(
        json!({"running": running, "status": state.name()}).into(),
    )))
}

pub(super) fn query_version(_: NoArguments, _: &mut Context<'_>) -> Started {
    Ok(Step::Done(Ok(version().into())))
}

pub(super) fn query_commands(_: NoArguments, _: &mut Context<'_>) -> Started {
    let names = table::names().map(|name| json!({"name": name}));
    Ok(Step::Done(Ok(names.collect::<Value>().into())))
}

pub(super) fn stop(_: NoArguments, _: &mut Context<'_>) -> Started {
    act(Action::Stop)
}

pub(super) fn cont(_: NoArguments, _: &mut Context<'_>) -> Started {
    act(Action::Cont)
}

pub(super) fn system_reset(_: NoArguments, _: &mut Context<'_>) -> Started {
    act(Action::SystemReset)
}

pub(super) fn system_powerdown(_: NoArguments, _: &mut Context<'_>) -> Started {
    act(Action::SystemPowerdown)
}

pub(super) fn system_wakeup(_: NoArguments, _: &mut Context<'_>) -> Started {
    act(Action::SystemWakeup)
}

/// `dump-guest-memory`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct DumpGuestMemory {
    paging: bool,
    protocol: String,
    detach: Option<bool>,
    begin: Option<i64>,
    length: Option<i64>,
    format: Option<String>,
}

pub(super) fn dump_guest_memory(arguments: DumpGuestMemory, _: &mut Context<'_>) -> Started {
    let refused = |desc: &str| Err(CmdError::generic(desc));
    if arguments.detach == Some(true) {
        return refused("detach is not supported: the answer comes when the core is written");
    }
    if arguments.begin.is_some() || arguments.length.is_some() {
        return refused("Parts of the memory cannot be dumped: leave out begin and length");
    }
    if arguments.format.is_some_and(|format| format != "elf") {
        return refused("Only the format elf is supported");
    }
    let Some(path) = arguments.protocol.strip_prefix("file:") else {
        return refused("parameter 'protocol' must start with 'file:'");
    };
    act(Action::Dump(CoreOption::new(path, arguments.paging)))
}

pub(super) fn device_add(device: DeviceAdd, _: &mut Context<'_>) -> Started {
    act(Action::DeviceAdd(device))
}

/// `device_del`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeviceDel {
    id: String,
}

pub(super) fn device_del(arguments: DeviceDel, _: &mut Context<'_>) -> Started {
    act(Action::DeviceDel(arguments.id))
}

pub(super) fn quit(_: NoArguments, _: &mut Context<'_>) -> Started {
    act(Action::Quit)
}

/// `human-monitor-command`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct HumanMonitorCommand {
    command_line: String,
    /// Accepted for the clients that always send it; no command looks at one CPU.
    #[serde(rename = "cpu-index")]
    _cpu_index: Option<i64>,
}

pub(super) fn human_monitor_command(
    arguments: HumanMonitorCommand,
    context: &mut Context<'_>,
) -> Started {
    let step = hmp::execute(&arguments.command_line, context.machine);
    Ok(step.map(|text| Ok(Value::String(text).into())))
}
