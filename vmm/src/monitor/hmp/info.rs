//! The `info` commands' texts, as QEMU lays them out.

use std::fmt::{Result, Write};

use serde_json::{Map, Value, json};
use strata_block::api::{
    BlockDeviceInfo, BlockInfo, BlockJobInfo, ImageInfo, JobProgress, JobType, ThrottleInfo,
};

use super::size::human_size;
use crate::monitor::json::in_bucket_order;

/// `info block`: one disk or all.
pub(super) fn block(disks: &[BlockInfo], device: Option<&str>, verbose: bool) -> String {
    let mut out = String::new();
    let wanted = disks
        .iter()
        .filter(|disk| device.is_none_or(|name| name == disk.device));
    for (index, disk) in wanted.enumerate() {
        if index > 0 {
            out.push('\n');
        }
        // Writing to a string does not fail.
        let _ = block_one(&mut out, disk, verbose);
    }
    out
}

fn block_one(out: &mut String, disk: &BlockInfo, verbose: bool) -> Result {
    let BlockInfo {
        device,
        qdev,
        io_status,
        ..
    } = disk;
    match &disk.inserted {
        None => writeln!(out, "{device}: [not inserted]")?,
        Some(top) => {
            let read_only = if top.ro { ", read-only" } else { "" };
            let (node, file, format) = (&top.node_name, &top.file, &top.drv);
            writeln!(out, "{device} ({node}): {file} ({format}{read_only})")?;
        }
    }
    if let Some(qdev) = qdev {
        writeln!(out, "    Attached to:      {qdev}")?;
    }
    if let Some(status) = io_status.as_deref().filter(|status| *status != "ok") {
        writeln!(out, "    I/O status:       {status}")?;
    }
    if disk.removable {
        let locked = if disk.locked { "locked" } else { "not locked" };
        let tray = if disk.tray_open == Some(true) {
            "open"
        } else {
            "closed"
        };
        writeln!(out, "    Removable device: {locked}, tray {tray}")?;
    }
    match &disk.inserted {
        None => Ok(()),
        Some(top) => block_layer(out, top, verbose),
    }
}

/// What is said of what a disk lies on.
fn block_layer(out: &mut String, top: &BlockDeviceInfo, verbose: bool) -> Result {
    let cache = if top.cache.writeback {
        "writeback"
    } else {
        "writethrough"
    };
    let direct = if top.cache.direct { ", direct" } else { "" };
    let no_flush = if top.cache.no_flush {
        ", ignore flushes"
    } else {
        ""
    };
    writeln!(out, "    Cache mode:       {cache}{direct}{no_flush}")?;
    if let Some(backing) = &top.backing_file {
        let depth = top.backing_file_depth;
        writeln!(
            out,
            "    Backing file:     {backing} (chain depth: {depth})"
        )?;
    }
    if top.detect_zeroes != "off" {
        writeln!(out, "    Detect zeroes:    {}", top.detect_zeroes)?;
    }
    if top.throttle.group.is_some() {
        throttling(out, &top.throttle)?;
    }
    if verbose {
        writeln!(out, "\nImages:")?;
        let mut layer = Some(&top.image);
        while let Some(image) = layer {
            image_info(out, image)?;
            layer = image.backing_image.as_deref();
        }
    }
    Ok(())
}

/// The limits on a line, as QEMU has them.
fn throttling(out: &mut String, limits: &ThrottleInfo) -> Result {
    let burst = |burst: Option<u64>| burst.unwrap_or(0);
    let values = [
        ("bps", limits.bps),
        ("bps_rd", limits.bps_rd),
        ("bps_wr", limits.bps_wr),
        ("bps_max", burst(limits.bps_max)),
        ("bps_rd_max", burst(limits.bps_rd_max)),
        ("bps_wr_max", burst(limits.bps_wr_max)),
        ("iops", limits.iops),
        ("iops_rd", limits.iops_rd),
        ("iops_wr", limits.iops_wr),
        ("iops_max", burst(limits.iops_max)),
        ("iops_rd_max", burst(limits.iops_rd_max)),
        ("iops_wr_max", burst(limits.iops_wr_max)),
        ("iops_size", burst(limits.iops_size)),
    ];
    write!(out, "    I/O throttling:  ")?;
    for (name, value) in values {
        write!(out, " {name}={value}")?;
    }
    let group = limits.group.as_deref().unwrap_or_default();
    writeln!(out, " group={group}")
}

fn image_info(out: &mut String, image: &ImageInfo) -> Result {
    let size = image.virtual_size;
    writeln!(out, "image: {}", image.filename)?;
    writeln!(out, "file format: {}", image.format)?;
    writeln!(out, "virtual size: {} ({size} bytes)", human_size(size))?;
    match image.actual_size {
        Some(bytes) => writeln!(out, "disk size: {}", human_size(bytes))?,
        None => writeln!(out, "disk size: unavailable")?,
    }
    if let Some(bytes) = image.cluster_size {
        writeln!(out, "cluster_size: {bytes}")?;
    }
    if image.dirty_flag {
        writeln!(out, "cleanly shut down: no")?;
    }
    if let Some(name) = &image.backing_filename {
        write!(out, "backing file: {name}")?;
        match &image.full_backing_filename {
            Some(full) if full != name => writeln!(out, " (actual path: {full})")?,
            _ => writeln!(out)?,
        }
    }
    if let Some(format) = &image.backing_filename_format {
        writeln!(out, "backing file format: {format}")?;
    }
    let details = image
        .format_specific
        .as_ref()
        .and_then(|specific| specific.get("data"));
    if let Some(Value::Object(members)) = details {
        writeln!(out, "Format specific information:")?;
        format_details(out, members, 1)?;
    }
    Ok(())
}

fn format_details(out: &mut String, members: &Map<String, Value>, depth: usize) -> Result {
    let indent = "    ".repeat(depth);
    for (key, value) in in_bucket_order(members) {
        let key = key.replace('-', " ");
        match value {
            Value::Object(inner) => {
                writeln!(out, "{indent}{key}:")?;
                format_details(out, inner, depth + 1)?;
            }
            Value::String(text) => writeln!(out, "{indent}{key}: {text}")?,
            other => writeln!(out, "{indent}{key}: {other}")?,
        }
    }
    Ok(())
}

/// `info block-jobs`.
pub(super) fn block_jobs(jobs: &[BlockJobInfo], verbose: bool) -> String {
    if jobs.is_empty() {
        return "No active jobs\n".to_owned();
    }
    let mut out = String::new();
    for job in jobs {
        out += &block_job(job);
        if let Some(progress) = job.progress.as_ref().filter(|_| verbose) {
            // Writing to a string does not fail.
            let _ = job_progress(&mut out, job, progress);
        }
    }
    out
}

fn job_progress(out: &mut String, job: &BlockJobInfo, progress: &JobProgress) -> Result {
    let JobProgress {
        x_copied: copied,
        x_rate: rate,
        ..
    } = progress;
    let word = |value: Value| value.as_str().unwrap_or_default().to_owned();
    let status = word(json!(job.status));
    let phase = word(json!(progress.x_phase)).replace('-', " ");
    writeln!(out, "    Status:           {status} ({phase})")?;
    match progress.x_to_copy {
        Some(to_copy) => writeln!(out, "    Copied:           {copied} of {to_copy} bytes")?,
        None => writeln!(out, "    Copied:           {copied} bytes")?,
    }
    writeln!(out, "    Rate:             {rate} bytes/s")?;
    if let Some(seconds) = progress.x_seconds_left {
        writeln!(out, "    Time left:        {seconds} s")?;
    }
    Ok(())
}

fn block_job(job: &BlockJobInfo) -> String {
    let BlockJobInfo {
        kind,
        device,
        offset,
        len,
        speed,
        ..
    } = job;
    let subject = match kind {
        JobType::Stream => "Streaming device",
        JobType::Commit => "Type commit, device",
    };
    format!("{subject} {device}: Completed {offset} of {len} bytes, speed limit {speed} bytes/s\n")
}
