//! The commands of HMP: this table is what is dispatched, parsed and explained.

use super::args::{Args, Kind, Param};
use super::{exports, run};
use crate::monitor::machine::Machine;
use crate::monitor::step::Step;

/// One command.
pub(super) struct Command {
    pub(super) name: &'static str,
    /// Another name for it.
    pub(super) alias: Option<&'static str>,
    /// Its parameters as people read them.
    pub(super) usage: &'static str,
    pub(super) help: &'static str,
    pub(super) params: &'static [Param],
    /// Commands that are named by the next word.
    pub(super) subcommands: &'static [Command],
    pub(super) run: fn(&Args, &dyn Machine) -> Step<String>,
}

impl Command {
    /// `word` names it.
    pub(super) fn is(&self, word: &str) -> bool {
        self.name == word || self.alias == Some(word)
    }

    /// Its names, as messages give them.
    pub(super) fn title(&self) -> String {
        match self.alias {
            Some(alias) => format!("{}|{alias}", self.name),
            None => self.name.to_owned(),
        }
    }
}

const fn param(name: &'static str, kind: Kind, required: bool) -> Param {
    Param {
        name,
        kind,
        required,
    }
}

const DEVICE: Param = param("device", Kind::Device, true);

/// A command without parameters.
const fn plain(
    name: &'static str,
    help: &'static str,
    run: fn(&Args, &dyn Machine) -> Step<String>,
) -> Command {
    Command {
        name,
        alias: None,
        usage: "",
        help,
        params: &[],
        subcommands: &[],
        run,
    }
}

/// All of them, in the order of their names.
pub(super) static COMMANDS: &[Command] = &[
    Command {
        usage: "[-f] device",
        params: &[param("", Kind::Options(&['f']), false), DEVICE],
        ..plain(
            "block_job_cancel",
            "stop an active background block operation (use -f\n\
             \t\t\t if you want to abort the operation immediately\n\
             \t\t\t instead of keep running until data is in sync)",
            run::block_job_cancel,
        )
    },
    Command {
        usage: "device",
        params: &[DEVICE],
        ..plain(
            "block_job_complete",
            "complete a background block operation that is ready\n\
             \t\t\t (a commit of the active layer: the base takes its place)",
            run::block_job_complete,
        )
    },
    Command {
        usage: "device",
        params: &[DEVICE],
        ..plain(
            "block_job_pause",
            "pause an active background block operation",
            run::block_job_pause,
        )
    },
    Command {
        usage: "device",
        params: &[DEVICE],
        ..plain(
            "block_job_resume",
            "resume a paused background block operation",
            run::block_job_resume,
        )
    },
    Command {
        usage: "device speed",
        params: &[DEVICE, param("speed", Kind::Size, true)],
        ..plain(
            "block_job_set_speed",
            "set maximum speed for a background block operation\n\
             \t\t\t (bytes a second with suffix B, k, M or G; MiB without one)",
            run::block_job_set_speed,
        )
    },
    Command {
        usage: "device size",
        params: &[DEVICE, param("size", Kind::Size, true)],
        ..plain(
            "block_resize",
            "resize a block image (bytes with suffix B, k, M or G;\n\
             \t\t\t MiB without one; a smaller size cuts off what lies behind it)",
            run::block_resize,
        )
    },
    Command {
        usage: "device bps bps_rd bps_wr iops iops_rd iops_wr",
        params: &[
            DEVICE,
            param("bps", Kind::Number, true),
            param("bps_rd", Kind::Number, true),
            param("bps_wr", Kind::Number, true),
            param("iops", Kind::Number, true),
            param("iops_rd", Kind::Number, true),
            param("iops_wr", Kind::Number, true),
        ],
        ..plain(
            "block_set_io_throttle",
            "change I/O throttle limits for a block drive (bytes and\n\
             \t\t\t requests a second; 0: no limit)",
            run::block_set_io_throttle,
        )
    },
    Command {
        usage: "device [speed] [base]",
        params: &[
            DEVICE,
            param("speed", Kind::MaybeSize, false),
            param("base", Kind::File, false),
        ],
        ..plain(
            "block_stream",
            "copy data from a backing file into a block device\n\
             \t\t\t (down to base if given, which stays; an argument that\n\
             \t\t\t reads as a size is the speed: write ./5 for a file named 5)",
            run::block_stream,
        )
    },
    Command {
        usage: "device [-f] filename [format [read-only-mode]]",
        params: &[
            DEVICE,
            param("", Kind::Options(&['f']), false),
            param("filename", Kind::File, true),
            param("format", Kind::Text, false),
            param("read-only-mode", Kind::Text, false),
        ],
        ..plain(
            "change",
            "change a removable medium, optional format (-f: also if the\n\
             \t\t\t guest has locked it)",
            run::change,
        )
    },
    Command {
        usage: "device|all",
        params: &[DEVICE],
        ..plain(
            "commit",
            "commit changes to the disk images: what the top layer holds\n\
             \t\t\t goes down into its backing file, and the layer is emptied",
            run::commit,
        )
    },
    Command {
        alias: Some("c"),
        ..plain("cont", "resume emulation", run::cont)
    },
    Command {
        usage: "driver[,prop=value][,...]",
        params: &[param("device", Kind::Text, true)],
        ..plain(
            "device_add",
            "add device, like -device on the command line\n\
             \t\t\t (virtio-blk-pci,drive=DISK,id=NAME[,addr=SLOT])",
            run::device_add,
        )
    },
    Command {
        usage: "device",
        params: &[param("id", Kind::Text, true)],
        ..plain(
            "device_del",
            "remove device (the guest is asked to let go of it)",
            run::device_del,
        )
    },
    Command {
        usage: "[[<domain>:]<bus>:]<slot> [file=file][,id=name][,if=none][,...]",
        params: &[
            param("place", Kind::Text, true),
            param("options", Kind::Text, true),
        ],
        ..plain(
            "drive_add",
            "open a disk for device_add (the keys of --disk; the place is ignored)",
            run::drive_add,
        )
    },
    Command {
        usage: "device",
        params: &[param("id", Kind::Device, true)],
        ..plain(
            "drive_del",
            "close a disk that no device has",
            run::drive_del,
        )
    },
    Command {
        usage: "[-p] filename",
        params: &[
            param("", Kind::Options(&['p']), false),
            param("filename", Kind::File, true),
        ],
        ..plain(
            "dump-guest-memory",
            "write the guest's memory into a file, as an ELF core\n\
             \t\t\t (-p: also at the addresses of the guest's kernel, for gdb)",
            run::dump_guest_memory,
        )
    },
    Command {
        usage: "[-f] device",
        params: &[param("", Kind::Options(&['f']), false), DEVICE],
        ..plain(
            "eject",
            "eject a removable medium (use -f to force it)",
            run::eject,
        )
    },
    Command {
        alias: Some("?"),
        usage: "[cmd]",
        params: &[param("cmd", Kind::Rest, false)],
        ..plain("help", "show the help", run::help)
    },
    Command {
        usage: "[subcommand]",
        subcommands: INFO,
        ..plain(
            "info",
            "show various information about the system state",
            run::help_info,
        )
    },
    Command {
        usage: "[-w] device [name]",
        params: &[
            param("", Kind::Options(&['w']), false),
            DEVICE,
            param("name", Kind::Text, false),
        ],
        ..plain(
            "nbd_server_add",
            "export a block device via NBD (-w: clients may write)",
            exports::nbd_server_add,
        )
    },
    Command {
        usage: "[-f] name",
        params: &[
            param("", Kind::Options(&['f']), false),
            param("name", Kind::Text, true),
        ],
        ..plain(
            "nbd_server_remove",
            "remove an export previously exposed via NBD\n\
             \t\t\t (-f: also if clients use it)",
            exports::nbd_server_remove,
        )
    },
    Command {
        usage: "[-a] [-w] unix:path|host:port",
        params: &[
            param("", Kind::Options(&['a', 'w']), false),
            param("uri", Kind::Text, true),
        ],
        ..plain(
            "nbd_server_start",
            "serve block devices at the given socket (-a: all of them;\n\
             \t\t\t -w: for writing)",
            exports::nbd_server_start,
        )
    },
    plain(
        "nbd_server_stop",
        "stop serving block devices using the NBD protocol",
        exports::nbd_server_stop,
    ),
    Command {
        alias: Some("q"),
        ..plain("quit", "quit the emulator", run::quit)
    },
    Command {
        usage: "[-n] device [new-image-file] [format]",
        params: &[
            param("", Kind::Options(&['n']), false),
            DEVICE,
            param("file", Kind::File, false),
            param("format", Kind::Text, false),
        ],
        ..plain(
            "snapshot_blkdev",
            "initiates a live snapshot\n\
             \t\t\tof device: the new image file becomes the new root image.\n\
             \t\t\tThe default format is qcow2. The -n flag requests that the\n\
             \t\t\timage found in new-image-file is used as it is, instead of\n\
             \t\t\tbeing created.",
            run::snapshot_blkdev,
        )
    },
    Command {
        usage: "device name",
        params: &[DEVICE, param("name", Kind::Text, true)],
        ..plain(
            "snapshot_blkdev_internal",
            "take an internal snapshot of device.\n\
             \t\t\tThe format of the image used by device must\n\
             \t\t\tsupport it, such as qcow2.",
            run::snapshot_blkdev_internal,
        )
    },
    Command {
        usage: "device name [id]",
        params: &[
            DEVICE,
            param("name", Kind::Text, true),
            param("id", Kind::Text, false),
        ],
        ..plain(
            "snapshot_delete_blkdev_internal",
            "delete an internal snapshot of device.\n\
             \t\t\tWith an id, the one that has both.",
            run::snapshot_delete_blkdev_internal,
        )
    },
    Command {
        alias: Some("s"),
        ..plain("stop", "stop emulation", run::stop)
    },
    plain(
        "system_powerdown",
        "send system power down event",
        run::system_powerdown,
    ),
    plain("system_reset", "reset the system", run::system_reset),
    plain(
        "system_wakeup",
        "wakeup guest from suspend",
        run::system_wakeup,
    ),
];

static INFO: &[Command] = &[
    Command {
        usage: "[-v] [device]",
        params: &[
            param("", Kind::Options(&['v']), false),
            param("device", Kind::Device, false),
        ],
        ..plain(
            "block",
            "show info of one block device or all block devices (-v: show details)",
            run::info_block,
        )
    },
    Command {
        usage: "[-v]",
        params: &[param("", Kind::Options(&['v']), false)],
        ..plain(
            "block-jobs",
            "show progress of ongoing block device operations (-v: phase, bytes, rate, time left)",
            run::info_block_jobs,
        )
    },
    plain(
        "inflight",
        "show what disks are doing, and what it waits for",
        run::info_inflight,
    ),
    plain(
        "status",
        "show the current VM status (running|paused)",
        run::info_status,
    ),
    plain("version", "show the version of strata", run::info_version),
];
