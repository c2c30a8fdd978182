//! Options that every command takes.

use std::path::PathBuf;

use clap::Args;
use strata_block::graph::{Format, chain::ImageOptions};

#[derive(Args)]
#[command(next_help_heading = "Backing files")]
pub struct Options {
    /// Folders in which backing files may lie, besides that of the image that names them
    #[arg(long, global = true, value_name = "DIR:DIR")]
    backing_folders: Option<String>,
    /// Format of backing files whose header gives none
    #[arg(long, global = true, value_name = "FMT")]
    backing_format: Option<Format>,
    #[arg(short = 'T', long, hide = true, value_name = "PATTERN")]
    trace: Option<String>,
    #[arg(long, global = true, hide = true, value_name = "OBJECT")]
    object: Option<String>,
    #[arg(long, global = true, hide = true)]
    image_opts: bool,
    #[arg(long, global = true, hide = true)]
    target_image_opts: bool,
}

impl Options {
    /// Adds how backing files are opened.
    pub fn of(&self, options: ImageOptions) -> ImageOptions {
        let folders = self.backing_folders.as_deref();
        let folders = folders.map(|list| list.split(':').map(PathBuf::from).collect());
        ImageOptions {
            backing_folders: folders.or(options.backing_folders),
            backing_format: self.backing_format.or(options.backing_format),
            ..options
        }
    }

    /// Why the command cannot be run, if one of `qemu-img`'s options asks for what there is not.
    pub fn refused(&self) -> Option<&'static str> {
        if self.trace.is_some() {
            return Some("--trace is not supported: leave it out");
        }
        if self.object.is_some() {
            return Some("--object is not supported: images cannot be encrypted");
        }
        if self.image_opts || self.target_image_opts {
            return Some(
                "--image-opts is not supported: give the image as a file name or an NBD URI, and its format with -f",
            );
        }
        None
    }
}
