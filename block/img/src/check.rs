//! `strata-img check`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;
use strata_format::check::{CheckReport, Repair};
use strata_graph::{Node, chain::ImageOptions};

use crate::{Failure, Output, Reading, Tool, cache::CacheMode, output};

/// The image has errors.
const CORRUPT: u8 = 2;
/// The image has leaks, but no errors.
const LEAKS: u8 = 3;
/// There is nothing to check in this format.
const UNSUPPORTED: u8 = 63;

/// Exit code 0: nothing found; 1: the check failed; 2: errors; 3: leaks only; 63: the format has no
/// checks.
#[derive(Args)]
#[command(
    after_help = "Example:\n  strata-img check --output=json disk.qcow2\n  strata-img check -f qcow2 -r all disk.qcow2"
)]
pub struct CheckArgs {
    #[command(flatten)]
    reading: Reading,
    /// How to print what is found
    #[arg(long, value_enum, default_value = "human")]
    output: Output,
    /// Repair what is found: leaks only, or everything; the format has to be given (-f)
    #[arg(short, long, value_enum, value_name = "WHAT")]
    repair: Option<What>,
    /// How the image is cached: unsafe does not wait for the host's disk when it is repaired
    #[arg(short = 'T', value_name = "CACHE", default_value = "writeback")]
    cache: String,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// The image
    file: PathBuf,
}

/// `ImageCheck`, its members as `qemu-img` orders them. What is 0 is left out, but for the errors.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ImageCheck<'a> {
    #[serde(skip_serializing_if = "is_zero")]
    image_end_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    compressed_clusters: u64,
    #[serde(skip_serializing_if = "is_zero")]
    total_clusters: u64,
    #[serde(skip_serializing_if = "is_zero")]
    corruptions: u64,
    #[serde(skip_serializing_if = "is_zero")]
    corruptions_fixed: u64,
    check_errors: u64,
    #[serde(skip_serializing_if = "is_zero")]
    leaks: u64,
    #[serde(skip_serializing_if = "is_zero")]
    leaks_fixed: u64,
    #[serde(skip_serializing_if = "is_zero")]
    allocated_clusters: u64,
    filename: String,
    format: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    fragmented_clusters: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl<'a> ImageCheck<'a> {
    fn new(report: &CheckReport, file: &Path, format: &'a str) -> Self {
        Self {
            image_end_offset: report.image_end_offset,
            compressed_clusters: report.compressed_clusters,
            total_clusters: report.total_clusters,
            corruptions: report.corruptions,
            corruptions_fixed: report.corruptions_fixed,
            check_errors: report.check_errors,
            leaks: report.leaks,
            leaks_fixed: report.leaks_fixed,
            allocated_clusters: report.allocated_clusters,
            filename: file.display().to_string(),
            format,
            fragmented_clusters: report.fragmented_clusters,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    Leaks,
    All,
}

impl From<What> for Repair {
    fn from(what: What) -> Self {
        match what {
            What::Leaks => Self::Leaks,
            What::All => Self::All,
        }
    }
}

/// Runs the command.
pub async fn run(tool: &Tool, args: CheckArgs) -> Result<u8, Failure> {
    let cache = CacheMode::parse(&args.cache, "source cache").map_err(Failure::new)?;
    if args.repair.is_some() {
        tool.format_to_write(&args.file, args.reading.format)
            .await?;
    }
    let options = ImageOptions {
        repair: args.repair.is_some(),
        check: true,
        no_flush: cache.no_flush,
        direct: cache.direct,
        ..args.reading.options()
    };
    let node = tool.open_named_layer(&args.file, options).await?;
    let repair = args.repair.map(Repair::from);
    let mut report = check(&node, repair).await?;
    if report.leaks_fixed + report.corruptions_fixed > 0 {
        let (leaks, corruptions) = (report.leaks_fixed, report.corruptions_fixed);
        if args.output == Output::Human && !args.quiet {
            output::print(&format!(
                "The following inconsistencies were found and repaired:\n\n    {leaks} leaked clusters\n    {corruptions} corruptions\n\nDouble checking the fixed image now...\n"
            ))?;
        }
        node.image().close().await?;
        let options = ImageOptions {
            check: true,
            ..args.reading.options()
        };
        let node = tool.open_named_layer(&args.file, options).await?;
        report = CheckReport {
            leaks_fixed: leaks,
            corruptions_fixed: corruptions,
            ..check(&node, None).await?
        };
    }
    match args.output {
        Output::Json => {
            let format = node.format().name();
            output::print_json(&ImageCheck::new(&report, &args.file, format))?;
        }
        Output::Human if args.quiet => {}
        Output::Human => output::print(&human(&report))?,
    }
    Ok(match &report {
        r if r.check_errors > 0 => 1,
        r if r.corruptions > 0 => CORRUPT,
        r if r.leaks > 0 => LEAKS,
        _ => 0,
    })
}

/// Checks an image, and reports what is found.
async fn check(node: &Node, repair: Option<Repair>) -> Result<CheckReport, Failure> {
    let report = node.image().check(repair).await?.ok_or_else(|| {
        Failure::new("This image format does not support checks").with_code(UNSUPPORTED)
    })?;
    for line in &report.lines {
        eprintln!("{line}");
    }
    match report.refused {
        Some(why) => Err(Failure::new(format!("Check failed: {why}"))),
        None => Ok(report),
    }
}

fn human(report: &CheckReport) -> String {
    let mut text = String::new();
    if report.is_clean() {
        text += "No errors were found on the image.\n";
    }
    if report.corruptions > 0 {
        text += &format!(
            "\n{} errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt it.\n",
            report.corruptions
        );
    }
    if report.leaks > 0 {
        text += &format!(
            "\n{} leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.\n",
            report.leaks
        );
    }
    if report.check_errors > 0 {
        text += &format!(
            "\n{} internal errors have occurred during the check.\n",
            report.check_errors
        );
    }
    if report.total_clusters > 0 && report.allocated_clusters > 0 {
        let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole as f64;
        let allocated = report.allocated_clusters;
        text += &format!(
            "{allocated}/{} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters\n",
            report.total_clusters,
            percent(allocated, report.total_clusters),
            percent(report.fragmented_clusters, allocated),
            percent(report.compressed_clusters, allocated),
        );
    }
    if report.image_end_offset > 0 {
        text += &format!("Image end offset: {}\n", report.image_end_offset);
    }
    text
}
