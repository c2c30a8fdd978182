//! `strata-img info`.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;
use strata_block::{
    api::{ImageInfo, SnapshotInfo},
    engine::layer_info,
};
use strata_format::qcow2::Snapshot;
use strata_graph::chain::ImageOptions;

use crate::{Failure, Output, Reading, Tool, output, refuse_bad_bitmaps, size, snapshot};

#[derive(Args)]
#[command(after_help = "Example:\n  strata-img info --backing-chain --output=json disk.qcow2")]
pub struct InfoArgs {
    #[command(flatten)]
    reading: Reading,
    /// How to print it
    #[arg(long, value_enum, default_value = "human")]
    output: Output,
    /// Show the layers below, too
    #[arg(long)]
    backing_chain: bool,
    /// The image
    file: PathBuf,
}

/// Runs the command.
pub async fn run(tool: &Tool, args: InfoArgs) -> Result<u8, Failure> {
    let options = tool.everywhere.of(ImageOptions {
        header_only: true,
        ..args.reading.options()
    });
    let top = if args.backing_chain {
        tool.open_named(&args.file, options).await?
    } else {
        tool.open_named_layer(&args.file, options).await?
    };
    let mut layers: Vec<_> = top.chain().map(|layer| layer_info(&layer)).collect();
    let mut texts = Vec::new();
    for (layer, node) in layers.iter_mut().zip(top.chain()) {
        refuse_bad_bitmaps(&node)?;
        let snapshots = match node.image().as_qcow2() {
            Some(image) => image.snapshots().await?,
            None => Vec::new(),
        };
        layer.snapshots = snapshots.iter().map(SnapshotInfo::from).collect();
        texts.push(human(layer, &snapshots));
    }
    match (args.output, args.backing_chain) {
        (Output::Json, true) => output::print_json(&layers)?,
        (Output::Json, false) => output::print_json(&layers[0])?,
        (Output::Human, _) => {
            output::print(&texts.join("\n"))?;
        }
    }
    Ok(0)
}

fn human(info: &ImageInfo, snapshots: &[Snapshot]) -> String {
    let disk_size = info.actual_size.map(size::human);
    let mut text = format!(
        "image: {}\nfile format: {}\nvirtual size: {} ({} bytes)\ndisk size: {}\n",
        info.filename,
        info.format,
        size::human(info.virtual_size),
        info.virtual_size,
        disk_size.as_deref().unwrap_or("unavailable"),
    );
    if info.encrypted {
        text += "encrypted: yes\n";
    }
    if let Some(bytes) = info.cluster_size {
        text += &format!("cluster_size: {bytes}\n");
    }
    if info.dirty_flag {
        text += "cleanly shut down: no\n";
    }
    if let Some(name) = &info.backing_filename {
        let actual = match &info.full_backing_filename {
            None => " (cannot determine actual path)".to_owned(),
            Some(full) if full != name => format!(" (actual path: {full})"),
            Some(_) => String::new(),
        };
        text += &format!("backing file: {name}{actual}\n");
    }
    if let Some(format) = &info.backing_filename_format {
        text += &format!("backing file format: {format}\n");
    }
    text += &snapshot::list(snapshots);
    if let Some(Value::Object(data)) = info.format_specific.as_ref().map(|s| &s["data"]) {
        text += "Format specific information:\n";
        for (name, value) in data {
            dump(&name.replace('-', " "), value, 1, &mut text);
        }
    }
    text
}

/// A named value as QEMU prints it: what it holds on lines of their own, further in.
fn dump(name: &str, value: &Value, depth: usize, text: &mut String) {
    let indent = " ".repeat(depth * 4);
    match value {
        Value::Array(elements) => {
            *text += &format!("{indent}{name}:\n");
            for (n, element) in elements.iter().enumerate() {
                dump(&format!("[{n}]"), element, depth + 1, text);
            }
        }
        Value::Object(members) => {
            *text += &format!("{indent}{name}:\n");
            for (name, member) in members {
                dump(&name.replace('-', " "), member, depth + 1, text);
            }
        }
        Value::String(value) => *text += &format!("{indent}{name}: {value}\n"),
        other => *text += &format!("{indent}{name}: {other}\n"),
    }
}
