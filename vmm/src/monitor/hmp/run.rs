//! What each command of the table does.

use strata_block::api::{
    BlockJobCancel, BlockJobRef, BlockJobSetSpeed, BlockResize, BlockSetIoThrottle, BlockStream,
    BlockdevChangeMedium, BlockdevSnapshotDeleteInternal, BlockdevSnapshotInternal,
    BlockdevSnapshotSync, ChangeReadOnlyMode, Cmd, CmdError, CommitDisk, NewImageMode, OpenTray,
    Reply,
};

use super::args::Args;
use super::table::{COMMANDS, Command};
use super::words::Words;
use super::{inflight, info};
use crate::cli::disk::{self, Interface};
use crate::cli::report::CoreOption;
use crate::monitor::machine::{Action, DeviceAdd, Machine, RunState};
use crate::monitor::step::Step;
use crate::monitor::{COMPATIBLE_VERSION, PACKAGE, check};

fn error(error: &CmdError) -> String {
    format!("Error: {}\n", error.desc)
}

/// Has the machine do something, and prints only what a snapshot prints.
fn act(action: Action) -> Step<String> {
    Step::ask(action, |result| match result {
        Ok(Reply::Formatted(line)) => line + "\n",
        Ok(_) => String::new(),
        Err(refused) => error(&refused),
    })
}

pub(super) fn block(cmd: Cmd) -> Step<String> {
    match check(&cmd) {
        Ok(()) => act(Action::Block(Box::new(cmd))),
        Err(refused) => Step::Done(error(&refused)),
    }
}

pub(super) fn block_stream(args: &Args, _: &dyn Machine) -> Step<String> {
    block(Cmd::BlockStream(BlockStream {
        device: args.required_text("device"),
        base: args.text("base"),
        speed: args.size("speed"),
        ..BlockStream::default()
    }))
}

pub(super) fn commit(args: &Args, _: &dyn Machine) -> Step<String> {
    block(Cmd::Commit(CommitDisk {
        device: args.required_text("device"),
    }))
}

pub(super) fn block_resize(args: &Args, _: &dyn Machine) -> Step<String> {
    block(Cmd::BlockResize(BlockResize {
        device: args.text("device"),
        node_name: None,
        size: args.size("size").unwrap_or(0),
    }))
}

pub(super) fn eject(args: &Args, _: &dyn Machine) -> Step<String> {
    block(Cmd::Eject(OpenTray {
        device: args.text("device"),
        id: None,
        force: args.has('f').then_some(true),
    }))
}

pub(super) fn change(args: &Args, _: &dyn Machine) -> Step<String> {
    let mode = args.text("read-only-mode");
    let read_only_mode = match mode.as_deref() {
        None => None,
        Some("retain") => Some(ChangeReadOnlyMode::Retain),
        Some("read-only") => Some(ChangeReadOnlyMode::ReadOnly),
        Some("read-write") => Some(ChangeReadOnlyMode::ReadWrite),
        Some(other) => return Step::Done(format!("Error: invalid parameter value: {other}\n")),
    };
    block(Cmd::BlockdevChangeMedium(BlockdevChangeMedium {
        device: args.text("device"),
        id: None,
        filename: args.required_text("filename"),
        format: args.text("format"),
        force: args.has('f').then_some(true),
        read_only_mode,
    }))
}

pub(super) fn block_set_io_throttle(args: &Args, _: &dyn Machine) -> Step<String> {
    let number = |name| args.size(name).unwrap_or(0);
    block(Cmd::BlockSetIoThrottle(Box::new(BlockSetIoThrottle {
        device: args.text("device"),
        bps: number("bps"),
        bps_rd: number("bps_rd"),
        bps_wr: number("bps_wr"),
        iops: number("iops"),
        iops_rd: number("iops_rd"),
        iops_wr: number("iops_wr"),
        ..BlockSetIoThrottle::default()
    })))
}

pub(super) fn block_job_cancel(args: &Args, _: &dyn Machine) -> Step<String> {
    block(Cmd::BlockJobCancel(BlockJobCancel {
        device: args.required_text("device"),
        force: args.has('f').then_some(true),
    }))
}

pub(super) fn block_job_set_speed(args: &Args, _: &dyn Machine) -> Step<String> {
    block(Cmd::BlockJobSetSpeed(BlockJobSetSpeed {
        device: args.required_text("device"),
        speed: args.size("speed").unwrap_or(0),
    }))
}

fn job(args: &Args) -> BlockJobRef {
    BlockJobRef {
        device: args.required_text("device"),
    }
}

pub(super) fn block_job_pause(args: &Args, _: &dyn Machine) -> Step<String> {
    block(Cmd::BlockJobPause(job(args)))
}

pub(super) fn block_job_complete(args: &Args, _: &dyn Machine) -> Step<String> {
    block(Cmd::BlockJobComplete(job(args)))
}

pub(super) fn block_job_resume(args: &Args, _: &dyn Machine) -> Step<String> {
    block(Cmd::BlockJobResume(job(args)))
}

pub(super) fn snapshot_blkdev(args: &Args, _: &dyn Machine) -> Step<String> {
    let Some(snapshot_file) = args.text("file") else {
        return Step::Done("Error: Parameter 'snapshot-file' is missing\n".to_owned());
    };
    block(Cmd::BlockdevSnapshotSync(BlockdevSnapshotSync {
        device: args.text("device"),
        snapshot_file,
        format: args.text("format"),
        mode: args.has('n').then_some(NewImageMode::Existing),
        ..BlockdevSnapshotSync::default()
    }))
}

pub(super) fn snapshot_blkdev_internal(args: &Args, _: &dyn Machine) -> Step<String> {
    let internal = BlockdevSnapshotInternal {
        device: args.required_text("device"),
        name: args.required_text("name"),
    };
    block(Cmd::BlockdevSnapshotInternalSync(internal))
}

pub(super) fn snapshot_delete_blkdev_internal(args: &Args, _: &dyn Machine) -> Step<String> {
    let delete = BlockdevSnapshotDeleteInternal {
        device: args.required_text("device"),
        name: Some(args.required_text("name")),
        id: args.text("id"),
    };
    block(Cmd::BlockdevSnapshotDeleteInternalSync(delete))
}

/// `drive_add`: the first word is QEMU's place on a bus, which says nothing here.
pub(super) fn drive_add(args: &Args, _: &dyn Machine) -> Step<String> {
    let options = args.required_text("options");
    let refused = |why: String| Step::Done(format!("Error: {why}\n"));
    let option = match disk::parse(options.as_ref()) {
        Ok(option) => option,
        Err(why) => return refused(why),
    };
    if option.id.is_none() {
        return refused("id=NAME is missing: what 'device_add' is to call it by".to_owned());
    }
    if option.interface != Interface::None {
        return refused("add if=none: 'device_add' makes the device".to_owned());
    }
    Step::ask(Action::DriveAdd(Box::new(option)), |result| match result {
        Ok(_) => "OK\n".to_owned(),
        Err(refused) => error(&refused),
    })
}

pub(super) fn drive_del(args: &Args, _: &dyn Machine) -> Step<String> {
    act(Action::DriveDel(args.required_text("id")))
}

pub(super) fn device_add(args: &Args, _: &dyn Machine) -> Step<String> {
    match DeviceAdd::parse(&args.required_text("device")) {
        Ok(device) => act(Action::DeviceAdd(device)),
        Err(refused) => Step::Done(error(&refused)),
    }
}

pub(super) fn device_del(args: &Args, _: &dyn Machine) -> Step<String> {
    act(Action::DeviceDel(args.required_text("id")))
}

pub(super) fn cont(_: &Args, _: &dyn Machine) -> Step<String> {
    act(Action::Cont)
}

pub(super) fn stop(_: &Args, _: &dyn Machine) -> Step<String> {
    act(Action::Stop)
}

pub(super) fn system_powerdown(_: &Args, _: &dyn Machine) -> Step<String> {
    act(Action::SystemPowerdown)
}

pub(super) fn system_reset(_: &Args, _: &dyn Machine) -> Step<String> {
    act(Action::SystemReset)
}

pub(super) fn system_wakeup(_: &Args, _: &dyn Machine) -> Step<String> {
    act(Action::SystemWakeup)
}

pub(super) fn dump_guest_memory(args: &Args, _: &dyn Machine) -> Step<String> {
    let path = args.required_text("filename");
    act(Action::Dump(CoreOption::new(path, args.has('p'))))
}

pub(super) fn quit(_: &Args, _: &dyn Machine) -> Step<String> {
    act(Action::Quit)
}

pub(super) fn info_block(args: &Args, _: &dyn Machine) -> Step<String> {
    let (device, verbose) = (args.text("device"), args.has('v'));
    Step::ask(
        Action::Block(Box::new(Cmd::QueryBlock)),
        move |result| match result {
            Ok(Reply::Block(disks)) => info::block(&disks, device.as_deref(), verbose),
            Ok(_) => String::new(),
            Err(refused) => error(&refused),
        },
    )
}

pub(super) fn info_block_jobs(args: &Args, _: &dyn Machine) -> Step<String> {
    let verbose = args.has('v');
    let query = Action::Block(Box::new(Cmd::QueryBlockJobs));
    Step::ask(query, move |result| match result {
        Ok(Reply::BlockJobs(jobs)) => info::block_jobs(&jobs, verbose),
        Ok(_) => String::new(),
        Err(refused) => error(&refused),
    })
}

pub(super) fn info_inflight(_: &Args, _: &dyn Machine) -> Step<String> {
    Step::ask(
        Action::Block(Box::new(Cmd::QueryInflight)),
        |result| match result {
            Ok(Reply::Inflight(found)) => inflight::show(&found),
            Ok(_) => String::new(),
            Err(refused) => error(&refused),
        },
    )
}

pub(super) fn info_status(_: &Args, machine: &dyn Machine) -> Step<String> {
    Step::Done(match machine.run_state() {
        RunState::Running => "VM status: running\n".to_owned(),
        RunState::Paused => "VM status: paused\n".to_owned(),
        state => format!("VM status: paused ({})\n", state.name()),
    })
}

/// The version of QEMU whose words these are, then what this is.
pub(super) fn info_version(_: &Args, _: &dyn Machine) -> Step<String> {
    let (major, minor, micro) = COMPATIBLE_VERSION;
    Step::Done(format!("{major}.{minor}.{micro} ({PACKAGE})\n"))
}

/// `info` alone.
pub(super) fn help_info(_: &Args, _: &dyn Machine) -> Step<String> {
    Step::Done(explain("info"))
}

pub(super) fn help(args: &Args, _: &dyn Machine) -> Step<String> {
    Step::Done(explain(&args.required_text("cmd")))
}

/// The help for the command that `names` begins with, for all below it if it has subcommands, or
/// for all there are.
fn explain(names: &str) -> String {
    let mut words = Words::new(names);
    let mut table = COMMANDS;
    loop {
        let before = names[..words.position()].trim();
        let prefix = if before.is_empty() {
            String::new()
        } else {
            format!("{before} ")
        };
        let one = |command: &Command| {
            format!(
                "{prefix}{} {} -- {}\n",
                command.title(),
                command.usage,
                command.help
            )
        };
        let Some(word) = words.bare() else {
            return table.iter().map(one).collect();
        };
        match table.iter().find(|command| command.is(word)) {
            None => return format!("unknown command: '{prefix}{word}'\n"),
            Some(command) if command.subcommands.is_empty() => return one(command),
            Some(command) => table = command.subcommands,
        }
    }
}
