//! `info inflight`: what is under way, and what it waits for. QEMU has no such command.

use std::{
    fmt::{Result, Write},
    ops::Range,
};

use strata_block::api::{DiskInflight, Inflight, LayerInflight, TaskInfo};

/// The text: each disk with its gate and layers, then the tasks.
pub(super) fn show(found: &Inflight) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = show_all(&mut out, found);
    out
}

fn show_all(out: &mut String, found: &Inflight) -> Result {
    for disk in &found.disks {
        show_disk(out, disk)?;
    }
    writeln!(out, "Tasks, the oldest first:")?;
    for task in &found.tasks {
        show_task(out, task)?;
    }
    if found.tasks.is_empty() {
        writeln!(out, "    none")?;
    }
    Ok(())
}

fn show_disk(out: &mut String, disk: &DiskInflight) -> Result {
    let gate = if disk.closed { "closed" } else { "open" };
    let DiskInflight { inside, work, .. } = disk;
    write!(out, "{}: gate {gate}, {inside} inside", disk.id)?;
    waiting(out, disk.at_gate)?;
    if *work > 0 {
        write!(out, "; works on {work} bytes")?;
        waiting(out, disk.waiting_for_work)?;
    }
    if disk.held > 0 {
        write!(out, "; {} failed and held", disk.held)?;
    }
    writeln!(out)?;
    for layer in &disk.layers {
        show_layer(out, layer)?;
    }
    Ok(())
}

fn show_layer(out: &mut String, layer: &LayerInflight) -> Result {
    write!(out, "    {}:", layer.node_name)?;
    if layer.readers > 0 {
        write!(out, " {} readers", layer.readers)?;
    }
    writeln!(out)?;
    for entry in &layer.ranges {
        let mode = if entry.exclusive {
            "exclusive"
        } else {
            "shared"
        };
        let waits = if entry.waits { ", waits" } else { "" };
        writeln!(out, "        range {} {mode}{waits}", bytes(&entry.range))?;
    }
    for claim in &layer.claims {
        writeln!(out, "        claim {}", bytes(claim))?;
    }
    if layer.waiting_for_claims > 0 {
        let count = layer.waiting_for_claims;
        writeln!(out, "        {count} wait until a claim is released")?;
    }
    for (lock, count) in &layer.locks {
        write!(out, "        lock '{lock}'")?;
        waiting(out, *count)?;
        writeln!(out)?;
    }
    Ok(())
}

fn show_task(out: &mut String, task: &TaskInfo) -> Result {
    let TaskInfo {
        id, name, polls, ..
    } = task;
    let age = task.age.as_secs_f64();
    write!(out, "    {id} {name}: {age:.3} s, polled {polls} times")?;
    match task.busy {
        Some(busy) => writeln!(out, ", busy {:.3} s", busy.as_secs_f64()),
        None => writeln!(out),
    }
}

fn waiting(out: &mut String, count: usize) -> Result {
    if count > 0 {
        write!(out, ", {count} wait")?;
    }
    Ok(())
}

/// From the first byte to behind the last one; the whole layer is entered without an end.
fn bytes(range: &Range<u64>) -> String {
    match range.end {
        u64::MAX => format!("{:#x} to the end", range.start),
        end => format!("{:#x}..{end:#x}", range.start),
    }
}
