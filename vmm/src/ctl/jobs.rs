//! The verbs that start jobs.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{
    absolute,
    client::Client,
    error::CtlError,
    pretty, print,
    wait::{self, Merge},
};
use crate::cli::ctl::{CommitArgs, JobArgs, MergeArgs};

/// Starts a `block-stream`, or a group of them, and waits for the end.
///
/// # Errors
/// It was refused, or has failed; see [`wait::until_ended`].
pub(super) fn merge(client: &mut Client, args: &MergeArgs, json: bool) -> Result<(), CtlError> {
    let mut disks = Vec::new();
    for name in &args.disks {
        let disk = client.disk(name)?;
        if disks.contains(&disk) {
            return Err(CtlError::Refused(format!("'{disk}' is named twice")));
        }
        disks.push(disk);
    }
    let mut streams = Vec::new();
    for disk in &disks {
        let mut arguments = arguments(disk, &args.job);
        add_file(&mut arguments, "base", args.base.as_deref())?;
        streams.push(arguments);
    }
    let merge = Merge {
        disks: &disks,
        doing: "merging",
        done: "merged",
        ends_by_itself: true,
    };
    if let [_] = disks[..] {
        let arguments = streams.remove(0).into();
        return start(client, ("block-stream", arguments), merge, &args.job, json);
    }
    let group = format!("merge-{}", disks.join("-"));
    let actions: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            stream.insert("group".to_owned(), group.clone().into());
            json!({"type": "block-stream", "data": stream})
        })
        .collect();
    let command = ("transaction", json!({"actions": actions}));
    start(client, command, merge, &args.job, json)
}

/// Starts a `block-commit`, and waits for its end. One of the top is completed when it is ready.
///
/// # Errors
/// As [`merge`].
pub(super) fn commit(client: &mut Client, args: &CommitArgs, json: bool) -> Result<(), CtlError> {
    let disks = [client.disk(&args.disk)?];
    let mut arguments = arguments(&disks[0], &args.job);
    add_file(&mut arguments, "top", args.top.as_deref())?;
    add_file(&mut arguments, "base", args.base.as_deref())?;
    let merge = Merge {
        disks: &disks,
        doing: "committing",
        done: "committed",
        ends_by_itself: args.top.is_some(),
    };
    let command = ("block-commit", arguments.into());
    start(client, command, merge, &args.job, json)
}

fn arguments(disk: &str, job: &JobArgs) -> Map<String, Value> {
    let mut arguments = Map::new();
    arguments.insert("device".to_owned(), disk.into());
    arguments.extend(job.speed.map(|speed| ("speed".to_owned(), speed.into())));
    arguments
}

/// Adds a layer that was named by a file. A path leads from the caller's directory where a file is
/// there; names that mean nothing there are those of the chain.
fn add_file(
    arguments: &mut Map<String, Value>,
    name: &str,
    file: Option<&str>,
) -> Result<(), CtlError> {
    let Some(file) = file else { return Ok(()) };
    let is_path = file.contains('/') && Path::new(file).exists();
    let file = if is_path {
        absolute(Path::new(file))?
    } else {
        file.to_owned()
    };
    arguments.insert(name.to_owned(), file.into());
    Ok(())
}

fn start(
    client: &mut Client,
    (command, arguments): (&str, Value),
    merge: Merge<'_>,
    job: &JobArgs,
    json: bool,
) -> Result<(), CtlError> {
    client.execute(command, arguments)?;
    if !job.detach {
        return wait::until_ended(client, &merge, json);
    }
    let doing = merge.doing;
    for disk in merge.disks {
        print(&if json {
            pretty(&json!({"job": disk, "status": "started"}))
        } else if merge.ends_by_itself {
            format!("{disk}: {doing} in the background; 'jobs' shows how far it is\n")
        } else {
            format!(
                "{disk}: {doing} in the background; when 'jobs' calls it ready, \
                 hmp 'block_job_complete {disk}' makes the base the disk's top\n"
            )
        })?;
    }
    Ok(())
}
