//! The command line.

pub mod ctl;
pub mod disk;
mod duration;
pub mod ending;
pub mod export;
mod keys;
pub mod object;
pub mod report;
pub mod serial;
pub mod size;
pub mod state;
pub mod temporary;
pub mod test;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use self::{
    ctl::CtlArgs, disk::DiskOption, ending::EndingArgs, export::ExportOption, object::ObjectOption,
    report::ReportArgs, serial::SerialEndpoint, state::StateArgs, temporary::TemporaryArgs,
    test::TestArgs,
};
use crate::{
    kvm::cpuid::MAX_CPUS,
    monitor::{Endpoint, Protocol},
};

/// Boots guests whose disks are layered images that can be snapshotted, merged and moved while they
/// run.
#[derive(Debug, Parser)]
#[command(
    name = "strata",
    version,
    after_help = "Examples:\n  strata run --kernel vmlinuz --initrd initrd.img --append console=ttyS0 \\\n             \
                  --disk file=disk.qcow2,format=qcow2 --monitor unix:/tmp/monitor\n  \
                  strata test -- uname -r\n\n\
                  'strata COMMAND --help' says all of a command."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boot a guest.
    Run(Box<RunArgs>),
    /// Run a command in a guest, and end with its exit status.
    Test(Box<TestArgs>),
    /// Serve disks on the network, without a guest.
    Serve(ServeArgs),
    /// Drive a running one: snapshots and merges of its disks, its jobs, its monitor.
    Ctl(CtlArgs),
    /// Say what this host can do: whether KVM is usable, which I/O engines work, what a directory's
    /// file system offers.
    Doctor(DoctorArgs),
}

/// `strata run`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  strata run --kernel vmlinuz --initrd initrd.img --append console=ttyS0 --memory 1G --cpus 2 \\\n    \
                  --disk file=root.qcow2,format=qcow2 \\\n    \
                  --disk file=data.raw,format=raw,if=ide \\\n    \
                  --monitor unix:/tmp/monitor --qmp unix:/tmp/qmp\n  \
                  strata run --memory 1G --disk file=debian.img,format=raw\n\n\
                  With --serial stdio, Ctrl-A X ends the program, Ctrl-A H lists such keys.\n\n\
                  Keys of --disk:\n  file=PATH (needed), format=qcow2|raw|qed, if=virtio|ide|none,\n  \
                  media=disk|cdrom (cdrom: a CD drive on IDE, read-only; without file= there is no disc in it), id=NAME, node-name=NAME,\n  \
                  readonly=on|off, snapshot=on|off (what is written is thrown away in the end),\n  \
                  cache=writeback|none|writethrough|unsafe, aio=threads|io_uring,\n  \
                  discard=ignore|unmap, detect-zeroes=off|on|unmap, serial=TEXT, iothread=NAME,\n  \
                  backing-format=qcow2|raw|qed, backing-folders=DIR:DIR (where backing files may lie),\n  \
                  reconnect-delay=SECONDS, bootindex=N (the lowest is booted first),\n  \
                  logical-block-size=512|4096 (virtio; IDE has 512),\n  \
                  physical-block-size=BYTES [logical-block-size], wwn=NUMBER (IDE), rotational=on|off (IDE) [off],\n  \
                  rerror=report|ignore|stop [report], werror=report|ignore|enospc|stop [enospc]: what is done\n  \
                  when a read or anything else fails. 'stop' stops the guest and tries again at 'cont', and\n  \
                  'enospc' does so where there is no room, and goes on by itself when there is some.\n  \
                  throttling.bps-total=N, also -read and -write, throttling.iops-total=N, also -read and -write: bytes and\n  \
                  requests a second; each with -max for bursts and -max-length for their seconds [1];\n  \
                  throttling.iops-size=BYTES: a longer request counts for several; throttling.group=NAME: disks that share limits\n  \
                  if=none: for the monitor's commands, such as 'device_add virtio-blk-pci,drive=ID,id=NAME' in a running guest.\n  \
                  PATH may be an NBD export: nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH.\n  \
                  A comma inside a value is doubled.\n\n\
                  Exit status:\n  0 the guest powered off, or was told to end (quit, SIGTERM); 1 to 99 the code that the guest gave\n  \
                  (larger ones count as 99); 101 its kernel panicked; 102 it was reset with --no-reboot, or met a\n  \
                  triple fault; 124 time-out; 125 strata failed; 126 KVM cannot be used; 2 wrong usage.\n  \
                  The last line on standard error says which, and why. docs/CI.md has recipes."
)]
pub struct RunArgs {
    /// Kernel to boot: a bzImage (`/boot/vmlinuz-...`), an ELF vmlinux, or any kernel
    /// with a PVH entry or a multiboot header.
    /// Those that start in real mode (iPXE, memdisk) are started by firmware.
    /// Without it, firmware boots the first disk that can be booted.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["disks", "firmware"])]
    pub kernel: Option<PathBuf>,
    /// Initial RAM file system. For a multiboot kernel a list of modules, each as 'FILE WORDS'.
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// The kernel's command line.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true,
        requires = "kernel"
    )]
    pub append: String,
    /// Firmware that boots the disks, or the kernel in real mode [default: SeaBIOS, where packages
    /// put it].
    #[arg(long, value_name = "FILE")]
    pub firmware: Option<PathBuf>,
    /// Its memory and processors.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// A disk, as key=value,...; may be given several times.
    #[arg(long = "disk", value_name = "KEY=VALUE,...", value_parser = disk::parser())]
    pub disks: Vec<DiskOption>,
    /// Disks whose changes are thrown away.
    #[command(flatten)]
    pub temporary: TemporaryArgs,
    /// Jobs that outlive the process.
    #[command(flatten)]
    pub state: StateArgs,
    /// Where the guest's first serial port goes: stdio, none, file:PATH or unix:PATH [default:
    /// stdio, where no monitor takes it].
    #[arg(long, value_name = "WHERE", value_parser = serial::parse)]
    pub serial: Option<SerialEndpoint>,
    /// A monitor for people (HMP): stdio, unix:PATH or fd:N; may be given several times.
    #[arg(long = "monitor", value_name = "WHERE")]
    pub monitors: Vec<Endpoint>,
    /// A monitor for programs (QMP): stdio, unix:PATH or fd:N; may be given several times.
    #[arg(long = "qmp", value_name = "WHERE")]
    pub qmps: Vec<Endpoint>,
    /// Add the device that kvm-unit-tests want, QEMU's pc-testdev: ports 0xe0 and 0x2000, memory
    /// at 0xff000000.
    #[arg(long)]
    pub test_device: bool,
    /// Wait for `cont` in a monitor before the guest starts.
    #[arg(long)]
    pub paused: bool,
    /// What ends the run.
    #[command(flatten)]
    pub ending: EndingArgs,
    /// What is written of it.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// How large a guest's machine is.
#[derive(Debug, Clone, Args)]
pub struct MachineArgs {
    /// Guest memory, with suffix M or G (plain numbers are MiB).
    #[arg(long, value_name = "SIZE", default_value = "512M", value_parser = size::parse_memory)]
    pub memory: u64,
    /// Number of processors.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=MAX_CPUS as i64))]
    pub cpus: u8,
}

/// `strata serve`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  strata serve --disk file=root.qcow2,format=qcow2,id=root \\\n    \
                  --export type=nbd,disk=root,addr=unix:/tmp/nbd.sock,writable=on --qmp unix:/tmp/qmp\n  \
                  nbdinfo 'nbd+unix:///root?socket=/tmp/nbd.sock'\n\n\
                  Keys of --export:\n  type=nbd, disk=NAME, addr=unix:PATH|tcp:HOST:PORT (all needed),\n  \
                  name=EXPORT [the disk's name], writable=on|off [off], description=TEXT, id=NAME, tls-creds=ID;\n  \
                  or type=vhost-user-blk, disk=NAME, addr=unix:PATH (all needed),\n  \
                  writable=on|off [off], num-queues=N [1], id=NAME\n\
                  Keys of --object tls-creds-x509,...:\n  id=ID, dir=DIR with ca-cert.pem, server-cert.pem and server-key.pem (needed),\n  \
                  verify-peer=on|off [on]\n\
                  Keys of --disk: as of 'strata run' but rerror, werror and throttling; if= only gives a default name.\n\
                  A comma inside a value is doubled."
)]
pub struct ServeArgs {
    /// A disk, as key=value,...; may be given several times.
    #[arg(long = "disk", value_name = "KEY=VALUE,...", value_parser = disk::parser())]
    pub disks: Vec<DiskOption>,
    /// Disks whose changes are thrown away.
    #[command(flatten)]
    pub temporary: TemporaryArgs,
    /// Jobs that outlive the process.
    #[command(flatten)]
    pub state: StateArgs,
    /// Credentials for TLS, as tls-creds-x509,key=value,...; may be given several times.
    #[arg(long = "object", value_name = "TYPE,KEY=VALUE,...", value_parser = object::parse)]
    pub objects: Vec<ObjectOption>,
    /// An export, as key=value,...; may be given several times.
    #[arg(long = "export", value_name = "KEY=VALUE,...", value_parser = export::parse, required_unless_present_any = ["monitors", "qmps"])]
    pub exports: Vec<ExportOption>,
    /// A monitor for people (HMP): stdio, unix:PATH or fd:N; may be given several times.
    #[arg(long = "monitor", value_name = "WHERE")]
    pub monitors: Vec<Endpoint>,
    /// A monitor for programs (QMP): stdio, unix:PATH or fd:N; may be given several times.
    #[arg(long = "qmp", value_name = "WHERE")]
    pub qmps: Vec<Endpoint>,
}

/// `strata doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  strata doctor /var/lib/images")]
pub struct DoctorArgs {
    /// Directory whose file system is looked at.
    #[arg(value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
}

impl ServeArgs {
    /// All monitors, with the language of each.
    pub fn all_monitors(&self) -> Vec<(Protocol, Endpoint)> {
        with_protocols(&self.monitors, &self.qmps)
    }
}

fn with_protocols(hmp: &[Endpoint], qmp: &[Endpoint]) -> Vec<(Protocol, Endpoint)> {
    let hmp = hmp.iter().map(|place| (Protocol::Hmp, place.clone()));
    let qmp = qmp.iter().map(|place| (Protocol::Qmp, place.clone()));
    hmp.chain(qmp).collect()
}

impl RunArgs {
    /// All monitors, with the language of each.
    pub fn all_monitors(&self) -> Vec<(Protocol, Endpoint)> {
        with_protocols(&self.monitors, &self.qmps)
    }

    /// Where the serial port goes, and that at most one thing uses the terminal.
    ///
    /// # Errors
    /// Two things would.
    pub fn serial(&self) -> Result<SerialEndpoint, String> {
        let monitors = self.monitors.iter().chain(&self.qmps);
        let on_terminal = monitors.filter(|place| **place == Endpoint::Stdio).count();
        let serial = self.serial.clone().unwrap_or(match on_terminal {
            0 => SerialEndpoint::Stdio,
            _ => SerialEndpoint::None,
        });
        if on_terminal + usize::from(serial == SerialEndpoint::Stdio) > 1 {
            return Err("only one of --serial, --monitor and --qmp can use stdio".into());
        }
        Ok(serial)
    }
}

#[cfg(test)]
mod tests;
