//! `strata-img amend`.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use clap::Args;
use strata_format::qcow2::Amend;
use strata_graph::{Format, chain::ImageOptions};
use strata_storage::error::Error;

use crate::{
    Failure, Tool,
    cache::CacheMode,
    create::{self, CREATION_ONLY},
    option_list, output,
    progress::Progress,
    refuse_bad_bitmaps, size,
};

/// Percent between two prints of the progress.
const STEP: f64 = 1.0;

/// Changes options of a qcow2 image in place: its version, how refcounts are kept, its external
/// data file, its size.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  strata-img amend -f qcow2 -o compat=1.1,lazy_refcounts=on disk.qcow2\n  strata-img amend -f qcow2 -o help"
)]
pub struct AmendArgs {
    /// Format of the image: never guessed for an image that is written
    #[arg(short = 'f', value_name = "FMT")]
    format: Option<Format>,
    /// What is changed: backing_file and backing_fmt (only to what they are), compat, data_file,
    /// data_file_raw, lazy_refcounts, refcount_bits, size
    #[arg(short = 'o', value_name = "NAME=VALUE,...")]
    options: Vec<OsString>,
    /// Cache mode: unsafe does not wait for the host's disk
    #[arg(short = 't', value_name = "CACHE", default_value = "writeback")]
    cache: String,
    /// Show the progress
    #[arg(short)]
    progress: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Taken and not needed: it is for changes of keys
    #[arg(long, hide = true)]
    force: bool,
    /// The image
    file: Option<PathBuf>,
}

/// Runs the command.
pub async fn run(tool: &Tool, args: AmendArgs) -> Result<u8, Failure> {
    if args.options.is_empty() {
        return Err(Failure::new("Must specify options (-o)"));
    }
    let options = option_list::checked(&args.options).map_err(Failure::new)?;
    let wants_help = option_list::asks_for_help(&args.options);
    let progress = Progress::new(args.progress && !args.quiet, STEP);
    if let Some(format) = args.format.filter(|_| wants_help) {
        return help(format);
    }
    let Some(file) = &args.file else {
        return Err(Failure::new("Expecting one image file name"));
    };
    let cache = CacheMode::parse(&args.cache, "cache").map_err(Failure::new)?;
    let image = ImageOptions {
        format: Some(tool.format_to_write(file, args.format).await?),
        no_flush: cache.no_flush,
        direct: cache.direct,
        discard: true,
        ..ImageOptions::default()
    };
    let node = tool.open_named(file, tool.everywhere.of(image)).await?;
    if wants_help {
        return help(node.format());
    }
    if node.format() != Format::Qcow2 {
        return Err(unsupported(node.format()));
    }
    refuse_bad_bitmaps(&node)?;
    let changes = changes(&options).map_err(Failure::new)?;
    let show = |done, total| progress.at(done, total);
    node.image()
        .amend(&changes, &*node, &show)
        .await
        .map_err(|error| match error {
            Error::Image { why, .. } => Failure::new(why),
            error => Failure::new(error),
        })?;
    progress.at(1, 1);
    Ok(0)
}

fn unsupported(format: Format) -> Failure {
    Failure::new(format!(
        "Format driver '{format}' does not support option amendment"
    ))
}

fn help(format: Format) -> Result<u8, Failure> {
    let text = create::amend_help(format).ok_or_else(|| unsupported(format))?;
    output::print(&text)?;
    Ok(0)
}

/// Reads the options.
fn changes(options: &[OsString]) -> Result<Amend, String> {
    let mut changes = Amend::default();
    for option in options {
        let (name, value) = option_list::name_and_value(option);
        set(&mut changes, &name, value)?;
    }
    Ok(changes)
}

fn set(changes: &mut Amend, name: &str, file: &OsStr) -> Result<(), String> {
    let value = &*file.to_string_lossy();
    match name {
        "backing_file" => changes.backing = Some(file.to_owned()),
        "backing_fmt" => changes.backing_format = Some(value.to_owned()),
        "compat" => {
            let version = create::version(value);
            let unknown = || format!("Unknown compatibility level {value}");
            changes.version = Some(version.ok_or_else(unknown)?);
        }
        "data_file" => changes.data_file = Some(file.to_owned()),
        "data_file_raw" => changes.data_file_raw = Some(create::on_off(name, value)?),
        "lazy_refcounts" => changes.lazy_refcounts = Some(create::on_off(name, value)?),
        "refcount_bits" => {
            let bits = value.parse();
            let bits = bits.map_err(|_| format!("Parameter '{name}' expects a number"))?;
            changes.refcount_bits = Some(bits);
        }
        // As for the reference, 0 asks for nothing.
        "size" => changes.size = Some(size::parse(value)?).filter(|size| *size > 0),
        name if name.starts_with("encrypt.") => {
            return Err("Can't amend encryption options - encryption not present".into());
        }
        name if CREATION_ONLY.contains(&name) => {
            return Err(format!(
                "Invalid parameter '{name}'\nThis option is only supported for image creation"
            ));
        }
        _ => return Err(format!("Invalid parameter '{name}'")),
    }
    Ok(())
}
