//! The commands of QMP: what is dispatched and listed.
//!
//! Those of the block layer are all of [`Cmd`]; the tables here name those of the conversation and
//! of the machine.

use strata_block::api::Cmd;

use super::Context;
use super::arguments::Arguments;
use super::run::{self, Started};

/// A command that is not the block layer's.
struct Command {
    name: &'static str,
    run: fn(Arguments, &mut Context<'_>) -> Started,
}

/// A table of commands. What carries one out gets its arguments as a value of their type.
macro_rules! commands {
    ($($name:literal => $run:path,)*) => {
        &[$(Command {
            name: $name,
            run: |arguments, context| $run(arguments.read()?, context),
        }),*]
    };
}

/// About the conversation itself.
const SESSION: &[Command] = commands! {
    "qmp_capabilities" => run::qmp_capabilities,
    "x-strata-job-progress" => run::job_progress,
};

/// About the machine, and about QMP.
const MACHINE: &[Command] = commands! {
    "query-status" => run::query_status,
    "query-version" => run::query_version,
    "query-commands" => run::query_commands,
    "stop" => run::stop,
    "cont" => run::cont,
    "system_reset" => run::system_reset,
    "system_powerdown" => run::system_powerdown,
    "system_wakeup" => run::system_wakeup,
    "dump-guest-memory" => run::dump_guest_memory,
    "device_add" => run::device_add,
    "device_del" => run::device_del,
    "quit" => run::quit,
    "human-monitor-command" => run::human_monitor_command,
};

/// The names of all commands.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    let name = |command: &Command| command.name;
    let block = Cmd::NAMES.iter().copied();
    let session = SESSION.iter().map(name);
    session.chain(block).chain(MACHINE.iter().map(name))
}

/// Reads the arguments of the command called `name`, and starts it; `None` if there is none.
pub(super) fn start(
    name: &str,
    arguments: Arguments,
    context: &mut Context<'_>,
) -> Option<Started> {
    let mut own = SESSION.iter().chain(MACHINE);
    if let Some(command) = own.find(|command| command.name == name) {
        return Some((command.run)(arguments, context));
    }
    let cmd = Cmd::parse(name, arguments.argument())?;
    Some(cmd.map_err(Into::into).and_then(run::block))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_commands_have_one_name() {
        let mut all: Vec<_> = names().collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
