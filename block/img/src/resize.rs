//! `strata-img resize`.

use std::path::PathBuf;

use clap::Args;
use strata_format::qcow2::Preallocation;
use strata_graph::Format;

use crate::{Failure, Tool, output, size};

#[derive(Args)]
#[command(
    after_help = "Example:\n  strata-img resize -f qcow2 disk.qcow2 +10G\n  strata-img resize -f qcow2 --shrink disk.qcow2 5G"
)]
pub struct ResizeArgs {
    /// Format of the image (raw, qcow2, qed): never guessed for an image that is written
    #[arg(short = 'f', value_name = "FMT")]
    format: Option<Format>,
    /// Allow a smaller size: what lies behind the new end is lost
    #[arg(long)]
    shrink: bool,
    /// What is added gets room in the file at once: off, metadata (qcow2), falloc or full
    #[arg(long, value_name = "MODE", default_value = "off")]
    preallocation: String,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// The image
    file: PathBuf,
    /// The new size in bytes, or with a unit; with + or - in front, how much is added or taken
    #[arg(allow_hyphen_values = true)]
    size: String,
}

/// Runs the command.
pub async fn run(tool: &Tool, args: ResizeArgs) -> Result<u8, Failure> {
    let (sign, text) = match args.size.split_at_checked(1) {
        Some((sign @ ("+" | "-"), text)) => (sign, text),
        _ => ("", args.size.as_str()),
    };
    let mode = &args.preallocation;
    let preallocation = Preallocation::parse(mode)
        .ok_or_else(|| Failure::new(format!("Invalid preallocation mode '{mode}'")))?;
    let amount = size::parse(text).map_err(Failure::new)?;
    let node = tool.open_for_writing(&args.file, args.format).await?;
    let old = node.size();
    let size = match sign {
        "+" => old.checked_add(amount),
        "-" => old.checked_sub(amount).filter(|&size| size > 0),
        _ => Some(amount).filter(|&size| size > 0),
    };
    let size = size.ok_or_else(|| Failure::new("New image size must be positive"))?;
    if size < old && !args.shrink {
        eprintln!(
            "strata-img: warning: Shrinking an image will delete all data beyond the shrunken image's end. Before performing such an operation, make sure there is no important data there."
        );
        return Err(Failure::new(
            "Use the --shrink option to perform a shrink operation.",
        ));
    }
    if size <= old && preallocation != Preallocation::Off {
        return Err(Failure::new(
            "Preallocation can only be used for growing images",
        ));
    }
    node.resize_with(size, preallocation).await?;
    node.image().close().await?;
    if !args.quiet {
        output::print("Image resized.\n")?;
    }
    Ok(0)
}
