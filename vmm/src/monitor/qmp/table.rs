//! The commands of QMP: this table is what is dispatched, checked and listed.

use strata_block::api::CmdError;

use super::args::Kind::{Flag, Integer, List, ListOf, Object, OneOf, Text};
use super::args::{Args, Kind, Param, optional, required};
use super::{Context, Outcome, bitmaps, exports, objects, run};
use crate::monitor::step::Step;

/// One command.
pub(super) struct Command {
    pub(super) name: &'static str,
    pub(super) params: &'static [Param],
    pub(super) run: fn(&Args, &mut Context<'_>) -> Result<Step<Outcome>, CmdError>,
}

/// The command of that name.
pub(super) fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}

const NONE: &[Param] = &[];
const DEVICE: &[Param] = &[required("device", Text)];
const REMOVE_MODE: Kind = OneOf(&["safe", "hard"]);
const BITMAP: &[Param] = &[required("node", Text), required("name", Text)];
const ID: &[Param] = &[required("id", Text)];

/// All of them. Parameters stand in the order of QEMU's schema, which is that of the checks.
pub(super) const COMMANDS: &[Command] = &[
    Command {
        name: "qmp_capabilities",
        params: &[optional("enable", ListOf(&[]))],
        run: run::qmp_capabilities,
    },
    Command {
        name: "blockdev-snapshot-sync",
        params: &[
            optional("device", Text),
            optional("node-name", Text),
            required("snapshot-file", Text),
            optional("snapshot-node-name", Text),
            optional("format", Text),
            optional("mode", OneOf(&["existing", "absolute-paths"])),
        ],
        run: run::blockdev_snapshot_sync,
    },
    Command {
        name: "block_resize",
        params: &[
            optional("device", Text),
            optional("node-name", Text),
            required("size", Integer),
        ],
        run: run::block_resize,
    },
    Command {
        name: "block-stream",
        params: &[
            optional("job-id", Text),
            required("device", Text),
            optional("base", Text),
            optional("base-node", Text),
            optional("backing-file", Text),
            optional("speed", Integer),
            optional(
                "on-error",
                OneOf(&["report", "ignore", "enospc", "stop", "auto"]),
            ),
            optional("auto-finalize", Flag),
            optional("auto-dismiss", Flag),
        ],
        run: run::block_stream,
    },
    Command {
        name: "block-job-set-speed",
        params: &[required("device", Text), required("speed", Integer)],
        run: run::block_job_set_speed,
    },
    Command {
        name: "block-job-cancel",
        params: &[required("device", Text), optional("force", Flag)],
        run: run::block_job_cancel,
    },
    Command {
        name: "block-job-pause",
        params: DEVICE,
        run: run::block_job_pause,
    },
    Command {
        name: "block-job-resume",
        params: DEVICE,
        run: run::block_job_resume,
    },
    Command {
        name: "block-job-finalize",
        params: ID,
        run: run::block_job_finalize,
    },
    Command {
        name: "block-job-dismiss",
        params: ID,
        run: run::block_job_dismiss,
    },
    Command {
        name: "job-pause",
        params: ID,
        run: run::job_pause,
    },
    Command {
        name: "job-resume",
        params: ID,
        run: run::job_resume,
    },
    Command {
        name: "job-cancel",
        params: ID,
        run: run::job_cancel,
    },
    Command {
        name: "job-finalize",
        params: ID,
        run: run::job_finalize,
    },
    Command {
        name: "job-dismiss",
        params: ID,
        run: run::job_dismiss,
    },
    Command {
        name: "query-block",
        params: NONE,
        run: run::query_block,
    },
    Command {
        name: "query-named-block-nodes",
        params: &[optional("flat", Flag)],
        run: run::query_named_block_nodes,
    },
    Command {
        name: "query-block-jobs",
        params: NONE,
        run: run::query_block_jobs,
    },
    Command {
        name: "query-jobs",
        params: NONE,
        run: run::query_jobs,
    },
    Command {
        name: "block-dirty-bitmap-add",
        params: &[
            required("node", Text),
            required("name", Text),
            optional("granularity", Integer),
            optional("persistent", Flag),
            optional("disabled", Flag),
        ],
        run: bitmaps::add,
    },
    Command {
        name: "block-dirty-bitmap-remove",
        params: BITMAP,
        run: bitmaps::remove,
    },
    Command {
        name: "block-dirty-bitmap-clear",
        params: BITMAP,
        run: bitmaps::clear,
    },
    Command {
        name: "block-dirty-bitmap-enable",
        params: BITMAP,
        run: bitmaps::enable,
    },
    Command {
        name: "block-dirty-bitmap-disable",
        params: BITMAP,
        run: bitmaps::disable,
    },
    Command {
        name: "block-dirty-bitmap-merge",
        params: &[
            required("node", Text),
            required("target", Text),
            required("bitmaps", List),
        ],
        run: bitmaps::merge,
    },
    Command {
        name: "nbd-server-start",
        params: &[
            required("addr", Object),
            optional("tls-creds", Text),
            optional("tls-authz", Text),
            optional("max-connections", Integer),
        ],
        run: exports::nbd_server_start,
    },
    Command {
        name: "nbd-server-add",
        params: &[
            optional("name", Text),
            optional("description", Text),
            required("device", Text),
            optional("writable", Flag),
            optional("bitmap", Text),
        ],
        run: exports::nbd_server_add,
    },
    Command {
        name: "nbd-server-remove",
        params: &[required("name", Text), optional("mode", REMOVE_MODE)],
        run: exports::nbd_server_remove,
    },
    Command {
        name: "nbd-server-stop",
        params: NONE,
        run: exports::nbd_server_stop,
    },
    Command {
        name: "block-export-add",
        params: &[
            required("type", OneOf(&["nbd", "vhost-user-blk"])),
            required("id", Text),
            required("node-name", Text),
            optional("writable", Flag),
            optional("writethrough", Flag),
            optional("name", Text),
            optional("description", Text),
            optional("allocation-depth", Flag),
            optional("bitmaps", List),
            optional("addr", Object),
            optional("num-queues", Integer),
            optional("logical-block-size", Integer),
        ],
        run: exports::block_export_add,
    },
    Command {
        name: "block-export-del",
        params: &[required("id", Text), optional("mode", REMOVE_MODE)],
        run: exports::block_export_del,
    },
    Command {
        name: "query-block-exports",
        params: NONE,
        run: exports::query_block_exports,
    },
    Command {
        name: "object-add",
        params: &[
            required("qom-type", OneOf(&["tls-creds-x509"])),
            required("id", Text),
            optional("dir", Text),
            optional("endpoint", OneOf(&["client", "server"])),
            optional("verify-peer", Flag),
        ],
        run: objects::object_add,
    },
    Command {
        name: "object-del",
        params: &[required("id", Text)],
        run: objects::object_del,
    },
    Command {
        name: "query-status",
        params: NONE,
        run: run::query_status,
    },
    Command {
        name: "query-version",
        params: NONE,
        run: run::query_version,
    },
    Command {
        name: "query-commands",
        params: NONE,
        run: run::query_commands,
    },
    Command {
        name: "stop",
        params: NONE,
        run: run::stop,
    },
    Command {
        name: "cont",
        params: NONE,
        run: run::cont,
    },
    Command {
        name: "system_reset",
        params: NONE,
        run: run::system_reset,
    },
    Command {
        name: "system_powerdown",
        params: NONE,
        run: run::system_powerdown,
    },
    Command {
        name: "quit",
        params: NONE,
        run: run::quit,
    },
    Command {
        name: "human-monitor-command",
        params: &[
            required("command-line", Text),
            optional("cpu-index", Integer),
        ],
        run: run::human_monitor_command,
    },
];
