//! The command line of `strata test`.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::Args;

use super::{
    MachineArgs,
    disk::{self, DiskOption},
    duration,
    report::ReportArgs,
    temporary::TemporaryArgs,
};

/// `strata test`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  strata test -- uname -r\n  \
                  strata test --kernel arch/x86/boot/bzImage --root file=debian.qcow2,format=qcow2 \\\n      \
                  --share .:/src --timeout 5m -- make -C /src check\n\n\
                  Without --root the command runs in an initramfs that holds busybox if the host has a static one.\n\
                  Results that it leaves in the directory $STRATA_OUT come back by --out. 'strata-exit N' ends the guest.\n\
                  On a terminal Ctrl-A X ends it, too, and Ctrl-A H lists such keys.\n\n\
                  Exit status: that of the command; 127 if it was not found; 101 the kernel panicked; 102 the guest was\n\
                  reset; 124 time-out; 125 strata failed, or the guest ended before the command did; 126 KVM cannot be\n\
                  used; 2 wrong usage.")]
pub struct TestArgs {
    /// Kernel to boot [default: the host's own in /boot, or the newest one there].
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// A disk, as key=value,... ('strata run --help' lists the keys); may be given several times.
    #[arg(long = "disk", value_name = "KEY=VALUE,...", value_parser = disk::parser())]
    pub disks: Vec<DiskOption>,
    /// The disk whose file system is the command's root, or the first of whose partitions that has
    /// an /etc, as key=value,... It comes before the others.
    #[arg(long, value_name = "KEY=VALUE,...", value_parser = disk::parser_of_file())]
    pub root: Option<DiskOption>,
    /// Disks whose changes are thrown away.
    #[command(flatten)]
    pub temporary: TemporaryArgs,
    /// A copy of a directory for the guest; may be given several times.
    #[arg(long = "share", value_name = "DIR:MOUNT", value_parser = parse_share)]
    pub shares: Vec<Share>,
    /// Directory for the command's results.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// More words for the kernel's command line.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true
    )]
    pub append: String,
    /// Its memory and processors.
    #[command(flatten)]
    pub machine: MachineArgs,
    /// End after so long, counted from the start: a number with the suffix s, m or h.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub timeout: Option<Duration>,
    /// The command, and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
    /// What is written of it.
    #[command(flatten)]
    pub report: ReportArgs,
}

/// The value of `--share`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Directory of the host.
    pub from: PathBuf,
    /// Absolute path in the guest.
    pub to: String,
}

fn parse_share(text: &str) -> Result<Share, String> {
    match text.rsplit_once(':') {
        Some((from, to)) if !from.is_empty() && to.starts_with('/') && to.len() > 1 => Ok(Share {
            from: from.into(),
            to: to.to_owned(),
        }),
        _ => Err("expected DIR:MOUNT, where MOUNT is an absolute path in the guest".into()),
    }
}
