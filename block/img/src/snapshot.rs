//! `strata-img snapshot`, and the list of snapshots that `info` prints, too.

use std::{path::PathBuf, time::SystemTime};

use clap::Args;
use strata_format::qcow2::{Qcow2, Snapshot};
use strata_graph::{Format, Node, chain::ImageOptions};

use crate::{Failure, Tool, output, size};

#[derive(Args)]
#[command(
    after_help = "Example:\n  strata-img snapshot -c before-update disk.qcow2\n  strata-img snapshot -a before-update disk.qcow2"
)]
pub struct SnapshotArgs {
    /// List the internal snapshots (the default)
    #[arg(short, conflicts_with_all = ["apply", "create", "delete"])]
    list: bool,
    /// Give the disk the content that it had then; by id or name
    #[arg(short, value_name = "SNAPSHOT", conflicts_with_all = ["create", "delete"])]
    apply: Option<String>,
    /// Make a snapshot with this name
    #[arg(short, value_name = "NAME", conflicts_with = "delete")]
    create: Option<String>,
    /// Delete the first snapshot with this name
    #[arg(short, value_name = "NAME")]
    delete: Option<String>,
    /// List although somebody may be writing to the image
    #[arg(short = 'U', long)]
    force_share: bool,
    /// Print nothing but errors and the list
    #[arg(short, long)]
    quiet: bool,
    /// The image: qcow2, the one format that has internal snapshots
    file: PathBuf,
}

/// Runs the command.
pub async fn run(tool: &Tool, args: SnapshotArgs) -> Result<u8, Failure> {
    let lists = args.apply.is_none() && args.create.is_none() && args.delete.is_none();
    let options = ImageOptions {
        // Whatever it is, it can be said that it has none.
        format: (!lists).then_some(Format::Qcow2),
        read_only: lists,
        force_share: args.force_share,
        discard: true,
        ..ImageOptions::default()
    };
    let node = tool.open_named_layer(&args.file, options).await?;
    let Some(image) = node.image().as_qcow2() else {
        return Ok(0);
    };
    if lists {
        output::print(&list(&image.snapshots().await?))?;
        return Ok(0);
    }
    let result = change(&node, image, &args).await;
    // Also after an error: bitmaps are stored then.
    let closed = node.image().close().await;
    result?;
    closed?;
    Ok(0)
}

async fn change(node: &Node, image: &Qcow2, args: &SnapshotArgs) -> Result<(), Failure> {
    if let Some(name) = &args.create {
        let made = image.create_snapshot(name, SystemTime::now()).await;
        made.map_err(|error| failed("create", name, &error))?;
    }
    if let Some(name) = &args.apply {
        apply(node, image, name).await?;
    }
    if let Some(name) = &args.delete {
        delete(image, name).await?;
    }
    Ok(())
}

/// By id, and by name if none has that id.
async fn apply(node: &Node, image: &Qcow2, name: &str) -> Result<(), Failure> {
    let snapshots = image.snapshots().await?;
    let by_id = snapshots.iter().find(|snapshot| snapshot.id == name);
    let by_name = || snapshots.iter().find(|snapshot| snapshot.name == name);
    let Some(found) = by_id.or_else(by_name) else {
        let why = "Failed to load snapshot: No such file or directory";
        return Err(failed("apply", name, &why));
    };
    let applied = node.apply_snapshot(&found.id).await;
    applied.map_err(|error| failed("apply", name, &error))
}

async fn delete(image: &Qcow2, name: &str) -> Result<(), Failure> {
    let snapshots = image.snapshots().await?;
    let found = snapshots.iter().find(|snapshot| snapshot.name == name);
    let Some(found) = found else {
        return Err(failed("delete", name, &"snapshot not found"));
    };
    let deleted = image.delete_snapshot(&found.id).await;
    deleted.map_err(|error| failed("delete", name, &error))
}

fn failed(what: &str, name: &str, why: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("Could not {what} snapshot '{name}': {why}"))
}

/// The list that people read; nothing without snapshots.
pub fn list(snapshots: &[Snapshot]) -> String {
    if snapshots.is_empty() {
        return String::new();
    }
    let mut text = String::from("Snapshot list:\n");
    text += &format!(
        "{:<10}{:<17}{:>8}{:>20}{:>13}{:>11}\n",
        "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT"
    );
    for snapshot in snapshots {
        let seconds = snapshot.vm_clock_nsec / 1_000_000_000;
        let clock = format!(
            "{:02}:{:02}:{:02}.{:03}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60,
            snapshot.vm_clock_nsec / 1_000_000 % 1000
        );
        let icount = snapshot.icount.map(|n| n.to_string()).unwrap_or_default();
        text += &format!(
            "{:<9} {:<16} {:>8}{:>20}{clock:>13}{icount:>11}\n",
            snapshot.id,
            snapshot.name,
            size::human(snapshot.vm_state_size),
            local_time(snapshot.date.0),
        );
    }
    text
}

/// A time in the user's time zone.
fn local_time(seconds: u32) -> String {
    let time = jiff::Timestamp::from_second(seconds.into()).unwrap_or_default();
    let zoned = time.to_zoned(jiff::tz::TimeZone::system());
    zoned.strftime("%Y-%m-%d %H:%M:%S").to_string()
}
