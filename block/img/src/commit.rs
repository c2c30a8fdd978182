//! `strata-img commit`.

use std::{ffi::OsString, path::PathBuf};

use clap::Args;
use strata_exec::SpeedLimit;
use strata_graph::{Format, NoSuchLayer, chain::ImageOptions, commit, named_layer};

use crate::{Failure, Tool, cache::CacheMode, output, progress::Progress, size};

/// Percent between two prints of the progress.
const STEP: f64 = 1.0;

/// Writes what an image holds into its backing file, and empties the image.
#[derive(Args)]
#[command(
    after_help = "Example:\n  strata-img commit -f qcow2 overlay.qcow2\n  strata-img commit -f qcow2 -b base.qcow2 -p overlay.qcow2"
)]
pub struct CommitArgs {
    /// Format of the image: never guessed for an image that is written
    #[arg(short = 'f', value_name = "FMT")]
    format: Option<Format>,
    /// Cache mode: unsafe does not wait for the host's disk
    #[arg(short = 't', value_name = "CACHE", default_value = "writeback")]
    cache: String,
    /// Commit down into this layer of the chain instead of the next one; implies -d
    #[arg(short = 'b', value_name = "BASE")]
    base: Option<OsString>,
    /// Bytes to copy a second at most; 0 for no limit
    #[arg(short = 'r', value_name = "RATE")]
    limit: Option<String>,
    /// Leave the image as it is
    #[arg(short = 'd')]
    keep: bool,
    /// Show the progress
    #[arg(short)]
    progress: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// The image
    file: PathBuf,
}

/// Runs the command.
pub async fn run(tool: &Tool, args: CommitArgs) -> Result<u8, Failure> {
    let cache = CacheMode::parse(&args.cache, "cache").map_err(Failure::new)?;
    let limit = size::rate(args.limit.as_deref()).map_err(Failure::new)?;
    let options = tool.everywhere.of(ImageOptions {
        format: Some(tool.format_to_write(&args.file, args.format).await?),
        no_flush: cache.no_flush,
        direct: cache.direct,
        discard: true,
        ..ImageOptions::default()
    });
    let top = tool.open_named(&args.file, options).await?;
    let next = top
        .backing()
        .ok_or_else(|| Failure::new("Image does not have a backing file"))?;
    let base = match &args.base {
        None => next,
        Some(name) => named_layer(&top, name).map_err(|error| match error {
            NoSuchLayer::Unknown(name) => Failure::new(format!(
                "Did not find '{name}' in the backing chain of '{}'",
                args.file.display()
            )),
            error => Failure::new(error),
        })?,
    };
    base.prepare_writing().await?;
    let progress = Progress::new(args.progress && !args.quiet, STEP);
    let limit = SpeedLimit::new(&tool.exec, limit);
    let shown = |done, size| progress.at(done, size);
    commit::commit(&top, &base, Some(&limit), &shown).await?;
    if !args.keep && args.base.is_none() {
        commit::make_empty(&top).await?;
    }
    drop(progress);
    top.image().close().await?;
    base.image().close().await?;
    if !args.quiet {
        output::print("Image committed.\n")?;
    }
    Ok(0)
}
