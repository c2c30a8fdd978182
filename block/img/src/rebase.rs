//! `strata-img rebase`.

use std::{ffi::OsString, path::PathBuf, rc::Rc};

use clap::Args;
use strata_format::backing::Backing;
use strata_graph::{
    Format, Kept, Node,
    chain::{self, ImageOptions},
    rebase,
};

use crate::{Failure, Tool, cache::CacheMode, drivers, progress::Progress};

/// Percent between two prints of the progress.
const STEP: f64 = 1.0;

/// Gives an image another backing file. The image shows the same bytes afterwards, unless -u is
/// given.
#[derive(Args)]
#[command(
    after_help = "Example:\n  strata-img rebase -f qcow2 -b new.qcow2 -F qcow2 overlay.qcow2\n  strata-img rebase -f qcow2 -b '' overlay.qcow2\n  strata-img rebase -f qcow2 -u -b moved.raw -F raw overlay.qcow2"
)]
pub struct RebaseArgs {
    /// Format of the image: never guessed for an image that is written
    #[arg(short = 'f', value_name = "FMT")]
    format: Option<Format>,
    /// Cache mode of the image: unsafe does not wait for the host's disk
    #[arg(short = 't', value_name = "CACHE", default_value = "writeback")]
    cache: String,
    /// Cache mode of the backing files
    #[arg(short = 'T', value_name = "CACHE", default_value = "writeback")]
    source_cache: String,
    /// The new backing file, as the header will name it; an empty name for none
    #[arg(short = 'b', value_name = "FILE")]
    backing: Option<OsString>,
    /// Format of the new backing file; with -u any that QEMU knows
    #[arg(short = 'F', id = "new_format", value_name = "FMT")]
    backing_format: Option<String>,
    /// Change the header only: neither old nor new backing file is looked at
    #[arg(short = 'u')]
    header_only: bool,
    /// Open the backing files although somebody may be writing to them
    #[arg(short = 'U', long)]
    force_share: bool,
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
pub async fn run(tool: &Tool, args: RebaseArgs) -> Result<u8, Failure> {
    let cache = CacheMode::parse(&args.cache, "cache").map_err(Failure::new)?;
    let below = CacheMode::parse(&args.source_cache, "source cache").map_err(Failure::new)?;
    if args.backing.is_none() && !args.header_only {
        return Err(Failure::new(
            "Must specify backing file (-b) or use unsafe mode (-u)",
        ));
    }
    let backing = new_backing(&args)?;
    let options = ImageOptions {
        format: Some(tool.format_to_write(&args.file, args.format).await?),
        no_flush: cache.no_flush,
        direct: cache.direct,
        discard: true,
        ..ImageOptions::default()
    };
    let top = tool.open_named_layer(&args.file, options).await?;
    refuse_itself(tool, &top, backing.as_ref()).await?;
    let progress = Progress::new(args.progress && !args.quiet, STEP);
    if !args.header_only {
        copy(tool, &args, below, &top, backing.as_ref(), &progress).await?;
    }
    rebase::change_backing(&top, backing)
        .await
        .map_err(|error| failed(&args, &error))?;
    progress.at(1, 1);
    drop(progress);
    top.image().close().await?;
    Ok(0)
}

fn failed(args: &RebaseArgs, why: &impl std::fmt::Display) -> Failure {
    let name = args.backing.as_deref().unwrap_or_default().display();
    Failure::new(format!(
        "Could not change the backing file to '{name}': {why}"
    ))
}

/// How the header will name the new backing file.
fn new_backing(args: &RebaseArgs) -> Result<Option<Backing>, Failure> {
    let Some(name) = args.backing.clone().filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let format = args
        .backing_format
        .clone()
        .ok_or_else(|| failed(args, &"backing format must be specified"))?;
    if !args.header_only {
        format.parse::<Format>()?;
    } else if !drivers::is_known(&format) {
        return Err(Failure::new(format!("Invalid format name: '{format}'")));
    }
    chain::check_portable(&name).map_err(|why| failed(args, &why))?;
    Ok(Some(Backing {
        name,
        format: Some(format),
    }))
}

/// The format of the new backing file, if it is one that can be read here.
fn format_of(backing: &Backing) -> Option<Format> {
    backing.format.as_ref().and_then(|name| name.parse().ok())
}

/// An image below itself could not be opened any more.
async fn refuse_itself(
    tool: &Tool,
    top: &Rc<Node>,
    backing: Option<&Backing>,
) -> Result<(), Failure> {
    let Some(backing) = backing else {
        return Ok(());
    };
    let Ok(path) = chain::resolve(top.path(), backing) else {
        return Ok(());
    };
    let mut below = Kept::default();
    let format = format_of(backing);
    below
        .keep_named("its new backing file", &tool.opener, &path, format)
        .await;
    Ok(below.check(top.image().storage())?)
}

/// Opens the old and the new chain, and writes what differs to the image.
async fn copy(
    tool: &Tool,
    args: &RebaseArgs,
    cache: CacheMode,
    top: &Rc<Node>,
    backing: Option<&Backing>,
    progress: &Progress,
) -> Result<(), Failure> {
    let reading = |format| ImageOptions {
        format,
        read_only: true,
        direct: cache.direct,
        force_share: args.force_share,
        ..ImageOptions::default()
    };
    tool.opener
        .open_below(top, &tool.everywhere.of(reading(None)))
        .await
        .map_err(|error| {
            let name = top
                .image()
                .backing_name()
                .map_or_else(OsString::new, |b| b.name);
            let name = name.display();
            Failure::new(format!("Could not open old backing file '{name}': {error}"))
        })?;
    let new = match backing {
        None => None,
        Some(backing) => {
            let path = chain::resolve(top.path(), backing)?;
            let reading = tool.everywhere.of(reading(format_of(backing)));
            // It is meant, but the next program that opens the image cannot know that from its
            // header.
            chain::check_allowed(top.path(), backing, &reading)
                .map_err(|error| failed(args, &error))?;
            let node = tool.opener.open(&path, &reading).await;
            Some(node.map_err(|error| {
                let name = backing.name.display();
                Failure::new(format!("Could not open new backing file '{name}': {error}"))
            })?)
        }
    };
    let show = |done, size| progress.at(done, size);
    Ok(rebase::copy_differences(top, new.as_ref(), &show).await?)
}
