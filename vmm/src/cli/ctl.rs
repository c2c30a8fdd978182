//! `strata ctl`: the command line of those who drive a running one.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Subcommand};

use crate::monitor::parse_size;

/// `strata ctl`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  strata run ... --disk file=a.qcow2,format=qcow2,id=root --qmp unix:/tmp/qmp\n  \
                  strata ctl /tmp/qmp snapshot root b.qcow2\n  \
                  strata ctl /tmp/qmp merge root --speed 50M\n  \
                  strata ctl /tmp/qmp jobs\n\n\
                  Exit status:\n  0 done; 1 it failed, and the last line on standard error says why; 2 wrong usage;\n  \
                  130 Ctrl-C while it waited for a job, which goes on."
)]
pub struct CtlArgs {
    /// The QMP socket of a `strata run` or `strata serve`, as its --qmp names it.
    #[arg(value_name = "SOCKET", value_parser = parse_socket)]
    pub socket: PathBuf,
    /// Say what came of it as JSON, for programs.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The arguments of the program, with a socket that is called as a verb (`qmp` is a good name for
/// one) written so that it is not taken for that.
pub fn mark_socket(mut args: Vec<OsString>) -> Vec<OsString> {
    let is_verb = |arg: &OsString| arg.to_str().is_some_and(Verb::has_subcommand);
    if let [_, ctl, socket, rest @ ..] = &mut args[..]
        && ctl == "ctl"
        && is_verb(socket)
        && rest
            .iter()
            .find(|arg| *arg != "--json")
            .is_some_and(is_verb)
    {
        let mut marked = OsString::from("unix:");
        marked.push(&socket);
        *socket = marked;
    }
    args
}

/// `PATH`, or `unix:PATH` as `--qmp` wants it.
fn parse_socket(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("unix:").unwrap_or(text) {
        "" => Err("the path of a socket is needed".to_owned()),
        path => Ok(path.into()),
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Put an overlay on a disk: what lies below does not change any more.
    Snapshot(SnapshotArgs),
    /// Merge the layers below a disk's top into it ('block-stream').
    Merge(MergeArgs),
    /// Merge layers of a disk into one below them ('block-commit').
    Commit(CommitArgs),
    /// Show the jobs, and how far they have come.
    Jobs,
    /// Show whether the guest runs, the disks and the jobs.
    Status,
    /// Draw the layers of a disk, or of all: what each holds, what it would free, where its data
    /// is.
    Chain {
        /// The disk, as 'status' lists it [default: all].
        disk: Option<String>,
    },
    /// Have a line of the monitor for people (HMP) carried out, and print its answer.
    Hmp {
        /// The line, such as 'info block -v'.
        line: String,
    },
    /// Have a QMP command carried out, and print what it returns.
    Qmp {
        /// The command, such as '{"execute": "query-block"}'.
        #[arg(value_name = "JSON")]
        command: String,
    },
}

/// `strata ctl SOCKET snapshot`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  strata ctl /tmp/qmp snapshot virtio0 /images/monday.qcow2")]
pub struct SnapshotArgs {
    /// The disk, as 'status' lists it.
    pub disk: String,
    /// The overlay, which is made. A relative path counts from the directory that you are in.
    pub file: PathBuf,
    /// Its format: qcow2 or qed.
    #[arg(long, value_name = "FORMAT", default_value = "qcow2")]
    pub format: String,
}

/// `strata ctl SOCKET merge`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  strata ctl /tmp/qmp merge virtio0 --base base.qcow2 --speed 50M\n  \
                  strata ctl /tmp/qmp merge virtio0 virtio1\n\n\
                  The guest goes on meanwhile. The files that were merged are not needed any more afterwards, and not deleted.\n\
                  Ctrl-C ends the waiting, not the job."
)]
pub struct MergeArgs {
    /// The disk, as 'status' lists it. Several are merged as one: none of them if one fails.
    #[arg(value_name = "DISK", required = true)]
    pub disks: Vec<String>,
    /// The layer that stays below, by its file's name or its node name [default: none stays].
    #[arg(long, value_name = "FILE")]
    pub base: Option<String>,
    /// How the job is run.
    #[command(flatten)]
    pub job: JobArgs,
}

/// `strata ctl SOCKET commit`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  strata ctl /tmp/qmp commit virtio0 --top b.qcow2 --base a.qcow2\n  \
                  strata ctl /tmp/qmp commit virtio0\n\n\
                  The guest goes on meanwhile. Committing the disk's top ends with the base as its top: nothing is left to\n\
                  be done. The files that were committed are not needed any more afterwards, and not deleted.\n\
                  Ctrl-C ends the waiting, not the job."
)]
pub struct CommitArgs {
    /// The disk, as 'status' lists it.
    pub disk: String,
    /// The uppermost layer that is committed, by its file's name [default: the disk's top].
    #[arg(long, value_name = "FILE")]
    pub top: Option<String>,
    /// The layer that it is committed into, by its file's name [default: the lowest].
    #[arg(long, value_name = "FILE")]
    pub base: Option<String>,
    /// How the job is run.
    #[command(flatten)]
    pub job: JobArgs,
}

/// How a job is run.
#[derive(Debug, Args)]
pub struct JobArgs {
    /// Copy no more than so many bytes a second; with suffix k, M or G.
    #[arg(long, value_name = "BYTES/s", value_parser = parse_speed)]
    pub speed: Option<u64>,
    /// Do not wait for the end.
    #[arg(long)]
    pub detach: bool,
}

fn parse_speed(text: &str) -> Result<u64, String> {
    // Plain numbers are bytes here, as in QMP.
    let plain = text.ends_with(|last: char| last.is_ascii_digit());
    let unit = if plain { "B" } else { "" };
    let speed = parse_size(&format!("{text}{unit}"));
    speed.ok_or_else(|| "a speed is a number of bytes a second, such as 50M".to_owned())
}

#[cfg(test)]
mod tests;
