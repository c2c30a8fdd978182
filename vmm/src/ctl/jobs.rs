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

/// Starts a `block-stream`, and waits for its end.
///
/// # Errors
/// It was refused, or has failed; see [`wait::until_ended`].
pub(super) fn merge(client: &mut Client, args: &MergeArgs, json: bool) -> Result<(), CtlError> {
    let disk = client.disk(&args.disk)?;
    let mut arguments = arguments(&disk, &args.job);
    add_file(&mut arguments, "base", args.base.as_deref())?;
    let merge = Merge {
        disk: &disk,
        doing: "merging",
        done: "merged",
        ends_by_itself: true,
    };
    start(client, "block-stream", arguments, merge, &args.job, json)
}

/// Starts a `block-commit`, and waits for its end. One of the top is completed when it is ready.
///
/// # Errors
/// As [`merge`].
pub(super) fn commit(client: &mut Client, args: &CommitArgs, json: bool) -> Result<(), CtlError> {
    let disk = client.disk(&args.disk)?;
    let mut arguments = arguments(&disk, &args.job);
    add_file(&mut arguments, "top", args.top.as_deref())?;
    add_file(&mut arguments, "base", args.base.as_deref())?;
    let merge = Merge {
        disk: &disk,
        doing: "committing",
        done: "committed",
        ends_by_itself: args.top.is_some(),
    };
    start(client, "block-commit", arguments, merge, &args.job, json)
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
    command: &str,
    arguments: Map<String, Value>,
    merge: Merge<'_>,
    job: &JobArgs,
    json: bool,
) -> Result<(), CtlError> {
    client.execute(command, arguments.into())?;
    if !job.detach {
        return wait::until_ended(client, merge, json);
    }
    let disk = merge.disk;
    print(&if json {
        pretty(&json!({"job": disk, "status": "started"}))
    } else if merge.ends_by_itself {
        format!(
            "{disk}: {} in the background; 'jobs' shows how far it is\n",
            merge.doing
        )
    } else {
        let doing = merge.doing;
        format!(
            "{disk}: {doing} in the background; when 'jobs' calls it ready, \
             hmp 'block_job_complete {disk}' makes the base the disk's top\n"
        )
    })
}
