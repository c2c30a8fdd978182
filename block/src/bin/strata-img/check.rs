//! `strata-img check`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use strata_block::qcow2::CheckReport;

use crate::{Failure, Output, Reading, Tool, output};

/// The image has errors.
const CORRUPT: u8 = 2;
/// The image has leaks, but no errors.
const LEAKS: u8 = 3;
/// There is nothing to check in this format.
const UNSUPPORTED: u8 = 63;

/// Exit code 0: nothing found; 1: the check failed; 2: errors; 3: leaks only; 63: the format has no checks.
#[derive(Args)]
#[command(after_help = "Example:\n  strata-img check --output=json disk.qcow2")]
pub struct CheckArgs {
    #[command(flatten)]
    reading: Reading,
    /// How to print what is found
    #[arg(long, value_enum, default_value = "human")]
    output: Output,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// The image
    file: PathBuf,
}

/// `ImageCheck`.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ImageCheck<'a> {
    #[serde(flatten)]
    report: &'a CheckReport,
    filename: String,
    format: &'a str,
}

/// Runs the command.
pub async fn run(tool: &Tool, args: CheckArgs) -> Result<u8, Failure> {
    let node = tool.open_layer(&args.file, &args.reading).await?;
    let Some(image) = node.as_qcow2() else {
        return Err(
            Failure::new("This image format does not support checks").with_code(UNSUPPORTED)
        );
    };
    let report = image.check().await?;
    for line in &report.lines {
        eprintln!("{line}");
    }
    match args.output {
        Output::Json => output::print_json(&ImageCheck {
            report: &report,
            filename: args.file.display().to_string(),
            format: node.format().name(),
        })?,
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
