//! `strata ctl`: a client of a running `strata run` or `strata serve`, for people and scripts.
//!
//! ```text
//! cli::ctl ──Verb──▶ run ──▶ client (QMP) ──bytes──▶ the monitor's socket
//!                     │
//!                     ├─ wait: until jobs have ended, with progress
//!                     └─ show: what the answers say, as tables
//! ```

mod client;
mod error;
mod jobs;
mod progress;
mod show;
mod table;
mod wait;

use std::{
    io::{IsTerminal, Write},
    path::Path,
};

use serde_json::{Value, json};
use strata_block::chain::{ChainInfo, columns, draw, wants_colour};

use crate::cli::ctl::{CtlArgs, SnapshotArgs, Verb};
use client::Client;
pub use error::CtlError;

/// Does what `args` ask for, and prints what came of it.
///
/// # Errors
/// Why it was not done; one line.
pub fn run(args: &CtlArgs) -> Result<(), CtlError> {
    let mut client = Client::connect(&args.socket)?;
    let text = match &args.verb {
        Verb::Snapshot(snapshot) => take_snapshot(&mut client, snapshot, args.json)?,
        Verb::Merge(merge) => return jobs::merge(&mut client, merge, args.json),
        Verb::Commit(commit) => return jobs::commit(&mut client, commit, args.json),
        Verb::Jobs => {
            let jobs = client.execute("query-block-jobs", json!({}))?;
            if args.json {
                pretty(&jobs)
            } else {
                show::jobs(&jobs)
            }
        }
        Verb::Status => {
            let status = show::Status::ask(&mut client)?;
            if args.json {
                pretty(&status.to_json())
            } else {
                status.to_text()
            }
        }
        Verb::Chain { disk } => chain(&mut client, disk.as_deref(), args.json)?,
        Verb::Hmp { line } => {
            let answer = human_monitor_command(&mut client, line)?;
            if args.json {
                pretty(&json!(answer))
            } else {
                answer
            }
        }
        Verb::Qmp { command } => pretty(&client.request(parse_command(command)?)?),
    };
    print(&text)
}

/// Writes to standard output; whoever reads it may have seen enough.
fn print(text: &str) -> Result<(), CtlError> {
    let written = std::io::stdout().write_all(text.as_bytes());
    written.map_err(CtlError::Output)
}

/// JSON as people read it, and programs just as well.
fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn chain(client: &mut Client, disk: Option<&str>, json: bool) -> Result<String, CtlError> {
    let device = disk.map(|disk| client.disk(disk)).transpose()?;
    let arguments = device.map_or(json!({}), |device| json!({"device": device}));
    let chains = client.execute("x-strata-query-chain", arguments)?;
    if json {
        return Ok(pretty(&chains));
    }
    let chains: Vec<ChainInfo> = serde_json::from_value(chains).map_err(CtlError::Reply)?;
    let colour = wants_colour(std::io::stdout().is_terminal());
    let drawn = chains.iter().map(|chain| draw(chain, columns(), colour));
    Ok(drawn.collect::<Vec<_>>().join("\n"))
}

fn take_snapshot(
    client: &mut Client,
    snapshot: &SnapshotArgs,
    json: bool,
) -> Result<String, CtlError> {
    let (disk, format) = (client.disk(&snapshot.disk)?, &snapshot.format);
    let file = absolute(&snapshot.file)?;
    let arguments = json!({"device": disk, "snapshot-file": file, "format": format});
    client.execute("blockdev-snapshot-sync", arguments)?;
    Ok(if json {
        pretty(&json!({"disk": disk, "file": file, "format": format}))
    } else {
        format!("{disk}: the guest writes to {file} ({format}) now\n")
    })
}

/// A file as the other process finds it, which may be in another directory.
fn absolute(file: &Path) -> Result<String, CtlError> {
    let path = std::path::absolute(file).map_err(CtlError::Directory)?;
    let text = path.into_os_string().into_string();
    text.map_err(|path| CtlError::Name(path.into()))
}

/// Runs a line of HMP. What refuses it is an error here.
fn human_monitor_command(client: &mut Client, line: &str) -> Result<String, CtlError> {
    let answer = client.execute("human-monitor-command", json!({"command-line": line}))?;
    let text = answer.as_str().unwrap_or_default().replace("\r\n", "\n");
    // All that HMP has for it is words, which are QEMU's.
    let is_usage = text.ends_with("for more information\n") && text.contains("Try \"help ");
    if let Some(why) = text.strip_prefix("Error: ") {
        Err(CtlError::Refused(why.trim_end().to_owned()))
    } else if is_usage || text.starts_with("unknown command: ") {
        Err(CtlError::Refused(text.trim_end().replace('\n', ": ")))
    } else {
        Ok(text)
    }
}

fn parse_command(text: &str) -> Result<Value, CtlError> {
    let command: Value = serde_json::from_str(text).map_err(CtlError::NotJson)?;
    if command.get("execute").is_some_and(Value::is_string) {
        Ok(command)
    } else {
        Err(CtlError::NoCommand)
    }
}
