//! Options that every command takes.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use clap::Args;
use strata_graph::{Format, chain::ImageOptions, spec::ImageSpec};
use strata_storage::error::{Error, Result};

use crate::object;

#[derive(Args)]
#[command(next_help_heading = "Backing files")]
pub struct Options {
    /// Directories in which backing files may lie, besides that of the image that names them
    #[arg(long, global = true, value_name = "DIR:DIR")]
    backing_folders: Option<OsString>,
    /// Format of backing files whose header gives none
    #[arg(long, global = true, value_name = "FMT")]
    backing_format: Option<Format>,
    #[arg(short = 'T', long, hide = true, value_name = "PATTERN")]
    trace: Option<String>,
    /// Something that images may need: only a secret (secret,id=ID,data=...|file=...) is known, and
    /// none needs one
    #[arg(
        long = "object",
        global = true,
        value_name = "OBJECT",
        help_heading = "Images"
    )]
    objects: Vec<String>,
    /// Images are given as options of block drivers (driver=qcow2,file.filename=...), not by their
    /// names
    #[arg(long, global = true, help_heading = "Images")]
    image_opts: bool,
}

impl Options {
    /// Adds how backing files are opened.
    pub fn of(&self, options: ImageOptions) -> ImageOptions {
        let directories = self.backing_folders.as_deref();
        let directories = directories.map(|list| {
            let directories = list.as_bytes().split(|byte| *byte == b':');
            directories
                .map(|directory| PathBuf::from(OsStr::from_bytes(directory)))
                .collect()
        });
        ImageOptions {
            backing_folders: directories.or(options.backing_folders),
            backing_format: self.backing_format.or(options.backing_format),
            ..options
        }
    }

    /// The path or URI of the image that `name` means, and how it is opened that would otherwise be
    /// with `options`.
    pub fn named(&self, name: &Path, options: ImageOptions) -> Result<(PathBuf, ImageOptions)> {
        spec(name, self.image_opts, options)
    }

    /// Why the command cannot be run, if one of `qemu-img`'s options asks for what there is not.
    pub fn refused(&self) -> Option<String> {
        if self.trace.is_some() {
            return Some("--trace is not supported: leave it out".to_owned());
        }
        self.objects
            .iter()
            .find_map(|object| object::refused(object))
    }
}

/// As [`Options::named`], where `is_list` says whether the name is a list of options.
pub fn spec(name: &Path, is_list: bool, options: ImageOptions) -> Result<(PathBuf, ImageOptions)> {
    let spec = if is_list {
        ImageSpec::from_options(name.as_os_str())
    } else {
        ImageSpec::from_name(name)
    };
    let refused = |why| Error::Image {
        file: name.to_owned(),
        why,
    };
    let spec = spec.map_err(refused)?;
    let options = spec.with(options).map_err(refused)?;
    Ok((spec.path, options))
}

/// As [`Options::named`], where a name is never a list of options.
pub fn named(name: &Path, options: ImageOptions) -> Result<(PathBuf, ImageOptions)> {
    spec(name, false, options)
}

/// The path of an image that is made, by its name on the command line: `file:NAME` is the file
/// NAME.
pub fn target(name: &Path) -> &Path {
    let plain = name.as_os_str().as_bytes().strip_prefix(b"file:");
    plain.map_or(name, |plain| Path::new(OsStr::from_bytes(plain)))
}
