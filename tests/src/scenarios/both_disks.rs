//! Both disks of a guest that writes to them: a snapshot within an image, one moment of both in a
//! transaction, and a merge of both from a shell.

use super::commit::report;
use super::layers::{self, Disks};
use crate::error::{Outcome, ensure};
use crate::fixture::Fixture;
use crate::image::{Tool, text};
use crate::machine::Machine;
use crate::program;
use serde_json::json;
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(120);
const IDS: [&str; 2] = ["virtio0", "ide0-hd0"];

/// Both disks stand alone at the end, in new files.
pub fn test(fixture: &mut Fixture, machine: &mut Machine, disks: &mut Disks) -> Outcome<()> {
    machine.hmp.run("snapshot_blkdev_internal virtio0 before")?;
    report(machine)?;
    let tops = IDS.map(|id| fixture.dir.join(format!("{id}.both")));
    let actions: Vec<_> = IDS
        .iter()
        .zip(&tops)
        .map(|(id, top)| json!({"type": "blockdev-snapshot-sync", "data": {"device": id, "snapshot-file": top}}))
        .collect();
    machine
        .qmp
        .run("transaction", json!({"actions": actions}))?;
    report(machine)?;

    let below = machine.hmp.run("info block virtio0")?;
    let below = below
        .lines()
        .find_map(|line| line.trim().strip_prefix("Backing file:"));
    let below = below
        .and_then(|name| name.split_whitespace().next())
        .map(str::to_owned);
    let merged = ctl(fixture, &[&["merge"][..], &IDS[..]].concat())?;
    for (id, top) in IDS.iter().zip(&tops) {
        ensure(merged.contains(&format!("{id}: merged in ")), || {
            merged.clone()
        })?;
        let chain = ctl(fixture, &["chain", id])?;
        let stands_alone = chain.contains(", 1 layer,") && chain.contains(&layers::short(top));
        ensure(stands_alone, || chain)?;
    }
    report(machine)?;
    fixture.say("both disks", "one transaction, then merged from a shell");

    let below = below.unwrap_or_default();
    let snapshots = Tool::QemuImg.run(&["snapshot", "-l", &below])?;
    ensure(snapshots.contains(" before "), || snapshots)?;
    layers::check_images(&[below.as_ref()], false)?;
    fixture.verified(
        "both disks",
        "snapshot within an image, one moment of both, merged as one by strata ctl",
    );
    let [virtio, ide] = tops;
    (disks.virtio, disks.ide) = ((virtio, "qcow2"), (ide, "qcow2"));
    Ok(())
}

/// What `strata ctl` prints.
fn ctl(fixture: &Fixture, words: &[&str]) -> Outcome<String> {
    let socket = fixture.dir.join("first.qmp.sock");
    let args = [&["ctl", text(&socket)?][..], words].concat();
    let ended = program::run("strata", &args, WAIT)?;
    ensure(ended.code == Some(0), || {
        format!("strata {args:?}: {ended:?}")
    })?;
    Ok(ended.stdout)
}
