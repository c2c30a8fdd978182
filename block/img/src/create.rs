//! `strata-img create`.

mod formatting;
mod help;

pub use help::amend_text as amend_help;

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use clap::Args;
use strata_format::{
    backing::Backing,
    qcow2::{Compression, CreateOptions, DataFile, Preallocation},
    qed,
};
use strata_graph::{
    Format, Kept, NewImage,
    chain::{self, ImageOptions},
    replace_image,
};
use strata_storage::{FileHints, error::Error};

use crate::{Failure, Reading, Tool, drivers, everywhere, option_list, output, size};

#[derive(Args)]
#[command(
    after_help = "Example:\n  strata-img create -f qcow2 -o cluster_size=128k disk.qcow2 20G\n  strata-img create -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2"
)]
pub struct CreateArgs {
    /// Format of the new image (raw, qcow2, qed)
    #[arg(short = 'f', value_name = "FMT", default_value = "raw")]
    format: Format,
    /// Backing file
    #[arg(short = 'b', value_name = "FILE")]
    backing: Option<OsString>,
    /// Format of the backing file; with -u any that QEMU knows
    #[arg(short = 'F', id = "new_format", value_name = "FMT")]
    backing_format: Option<String>,
    /// Options of the format: backing_file, backing_fmt, cluster_size, compat, compression_type,
    /// data_file, data_file_raw, extended_l2, extent_size_hint, lazy_refcounts, nocow,
    /// preallocation, refcount_bits, size
    #[arg(short = 'o', value_name = "NAME=VALUE,...")]
    options: Vec<OsString>,
    /// Do not look at the backing file
    #[arg(short = 'u')]
    unsafe_backing: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// The new image; what a file of this name holds is lost
    #[arg(required_unless_present = "options")]
    file: Option<PathBuf>,
    /// Size of the disk in bytes, or with a unit; that of the backing file if not given
    size: Option<String>,
}

/// An image to be made, as options describe it.
pub struct Target<'a> {
    pub format: Format,
    /// Values of `-o`.
    pub options: &'a [OsString],
    pub backing: Option<OsString>,
    pub backing_format: Option<String>,
    /// The backing file's format need not be one that can be read here.
    pub any_backing_format: bool,
}

/// What `-o` and the other options ask for.
pub struct Wanted {
    pub size: Option<u64>,
    pub backing: Option<OsString>,
    backing_format: Option<String>,
    data_file: Option<OsString>,
    data_file_raw: bool,
    pub hints: FileHints,
    /// All options that were given: numbers in digits, the rest as it was written.
    given: BTreeMap<String, String>,
    pub image: CreateOptions,
}

/// Prints the options of a format if that is what `-o` asks for, with those of the file that is to
/// be made, if it is known; whether it is.
pub fn print_help(
    format: Format,
    options: &[OsString],
    target: Option<&Path>,
) -> Result<bool, Failure> {
    let wanted = option_list::asks_for_help(options);
    if wanted {
        output::print(&help::text(format, target))?;
    }
    Ok(wanted)
}

/// Runs the command.
pub async fn run(tool: &Tool, args: CreateArgs) -> Result<u8, Failure> {
    if print_help(args.format, &args.options, args.file.as_deref())? {
        return Ok(0);
    }
    let Some(file) = &args.file else {
        return Err(Failure::new("Expecting image file name"));
    };
    let failed = |why: String| {
        let name = file.display();
        // What the host says of it names it already.
        let named = why.starts_with(&format!("{name}: ")) || why.contains(&format!("'{name}'"));
        Failure::new(if named { why } else { format!("{name}: {why}") })
    };
    let target = Target {
        format: args.format,
        options: &args.options,
        backing: args.backing.clone(),
        backing_format: args.backing_format,
        any_backing_format: args.unsafe_backing,
    };
    let mut wanted = target.wanted().map_err(failed)?;
    if let Some(text) = &args.size {
        let size = size::parse(text).map_err(failed)?;
        if wanted.size.replace(size).is_some() {
            return Err(failed("The image size must be specified only once".into()));
        }
    }
    let kept = if args.unsafe_backing {
        if wanted.backing.is_some() && wanted.backing_format.is_none() {
            return Err(failed(
                "Backing file specified without backing format: say -F FMT".into(),
            ));
        }
        named_backing(tool, everywhere::target(file), &wanted).await
    } else {
        look_at_backing(tool, everywhere::target(file), &mut wanted).await?
    };
    wanted.image.size = wanted
        .size
        .ok_or_else(|| failed("Image creation needs a size parameter".into()))?;
    if !args.quiet {
        let size = wanted.image.size.to_string();
        wanted.given.insert("size".to_owned(), size);
        output::print(&formatting::line(file, args.format, &wanted.given))?;
    }
    let path = everywhere::target(file);
    let made = make(
        tool,
        path,
        args.format,
        wanted.image,
        true,
        &kept,
        wanted.hints,
    )
    .await;
    made.map_err(failed)?;
    Ok(0)
}

/// Makes an image, not in any of the `kept` files; returns the path of its file if that is new, or
/// why it could not be made.
pub async fn make(
    tool: &Tool,
    file: &Path,
    format: Format,
    image: CreateOptions,
    durable: bool,
    kept: &Kept,
    hints: FileHints,
) -> Result<Option<PathBuf>, String> {
    if file.as_os_str().as_bytes().starts_with(b"json:") {
        return Err("Unknown protocol 'json'".into());
    }
    let image = match format {
        Format::Qcow2 => NewImage::Qcow2(image),
        Format::Qed => NewImage::Qed(qed(image)),
        Format::Raw => NewImage::Raw {
            size: image.size,
            preallocation: image.preallocation,
        },
    };
    let made = replace_image(&tool.exec, file, image, durable, kept, hints).await;
    made.map_err(reason)
}

/// An error on the image that is being made, which the caller names.
fn reason(error: Error) -> String {
    match error {
        Error::Image { why, .. } => why,
        error => error.to_string(),
    }
}

/// Refuses a backing file with which the new image `file` would not be opened: it is meant, but
/// the next program that opens the image cannot know that from its header.
pub fn check_allowed(tool: &Tool, file: &Path, backing: &Backing) -> Result<(), String> {
    let options = tool.everywhere.of(ImageOptions::default());
    chain::check_allowed(file, backing, &options).map_err(reason)
}

impl Target<'_> {
    /// Reads the options.
    pub fn wanted(&self) -> Result<Wanted, String> {
        let mut wanted = Wanted {
            size: None,
            backing: self.backing.clone(),
            backing_format: self.backing_format.clone(),
            data_file: None,
            data_file_raw: false,
            hints: FileHints::default(),
            given: BTreeMap::new(),
            image: CreateOptions::default(),
        };
        for option in option_list::split(self.options) {
            wanted.set(&option, self.format)?;
        }
        wanted.name_data_file()?;
        let backing = wanted.backing.as_ref();
        let backing = backing.map(|name| name.display().to_string());
        wanted.repeat("backing_file", backing);
        if let Some(format) = &wanted.backing_format {
            if !self.any_backing_format {
                format
                    .parse::<Format>()
                    .map_err(|error| error.to_string())?;
            } else if !drivers::is_known(format) {
                return Err(format!(
                    "Parameter 'backing-fmt' does not accept value '{format}'"
                ));
            }
        }
        wanted.repeat("backing_fmt", wanted.backing_format.clone());
        let Some(name) = wanted.backing.clone() else {
            if wanted.backing_format.is_some() {
                return Err("Backing format cannot be used without backing file".into());
            }
            return Ok(wanted);
        };
        if self.format == Format::Raw {
            return Err(format!(
                "Backing file not supported for file format '{}'",
                self.format
            ));
        }
        if name.is_empty() {
            return Err("Expected backing file name, got empty string".into());
        }
        chain::check_portable(&name)?;
        let format = wanted.backing_format.clone();
        wanted.image.backing = Some(Backing { name, format });
        Ok(wanted)
    }
}

/// Options that an image gets when it is made, for good.
pub const CREATION_ONLY: [&str; 7] = [
    "cluster_size",
    "compression_type",
    "encryption",
    "extended_l2",
    "extent_size_hint",
    "nocow",
    "preallocation",
];

impl Wanted {
    /// The backing file's format, if it is one that can be read here.
    pub fn backing_format(&self) -> Option<Format> {
        self.backing_format.as_ref()?.parse().ok()
    }

    fn repeat(&mut self, name: &str, value: Option<String>) {
        self.given
            .extend(value.map(|value| (name.to_owned(), value)));
    }

    fn name_data_file(&mut self) -> Result<(), String> {
        let raw = self.data_file_raw;
        self.data_file
            .as_deref()
            .map_or(Ok(()), chain::check_portable)?;
        self.image.data_file = self.data_file.take().map(|name| DataFile { name, raw });
        if raw && self.image.data_file.is_none() {
            return Err("data-file-raw requires data-file".into());
        }
        Ok(())
    }

    fn set(&mut self, option: &OsStr, format: Format) -> Result<(), String> {
        let (name, file) = option_list::name_and_value(option);
        let (name, value) = (&*name, &*file.to_string_lossy());
        if name == "encryption" && on_off(name, value)? || name.starts_with("encrypt.") {
            return Err(format!("'{name}': images cannot be encrypted"));
        }
        let known = matches!(name, "size" | "nocow" | "extent_size_hint")
            || match format {
                Format::Qcow2 => true,
                Format::Raw => name == "preallocation",
                Format::Qed => {
                    matches!(name, "backing_file" | "backing_fmt" | "cluster_size")
                        || option == "preallocation=off"
                }
            };
        if !known {
            return Err(format!("Invalid parameter '{name}'"));
        }
        let mut shown = value.to_owned();
        let mut number = || -> Result<u64, String> {
            let number = size::parse(value)?;
            shown = number.to_string();
            Ok(number)
        };
        match name {
            "size" => self.size = Some(number()?),
            // Off, as always.
            "encryption" => {}
            "nocow" => self.hints.no_cow = on_off(name, value)?,
            "extent_size_hint" => {
                let bytes = u32::try_from(number()?);
                self.hints.extent_size = bytes.map_err(|_| "Extent size hint is too large")?;
            }
            "backing_file" => self.backing = Some(file.to_owned()),
            "backing_fmt" => self.backing_format = Some(value.to_owned()),
            "cluster_size" => self.image.cluster_size = number()?,
            "compat" => {
                let unknown = || format!("Parameter '{name}' does not accept value '{value}'");
                self.image.version = version(value).ok_or_else(unknown)?;
            }
            "data_file" => self.data_file = Some(file.to_owned()),
            "data_file_raw" => self.data_file_raw = on_off(name, value)?,
            "lazy_refcounts" => self.image.lazy_refcounts = on_off(name, value)?,
            "refcount_bits" => {
                let bits = number().map(|bits| u32::try_from(bits).ok());
                // A number that is none of bits is no width either.
                let is_negative = value.parse::<i64>().is_ok();
                self.image.refcount_bits = match bits {
                    Ok(bits) => bits.unwrap_or(u32::MAX),
                    Err(_) if is_negative => u32::MAX,
                    Err(_) => return Err(format!("Parameter '{name}' expects a number")),
                };
            }
            "preallocation" => {
                let mode = Preallocation::parse(value)
                    .ok_or_else(|| format!("Parameter '{name}' does not accept value '{value}'"))?;
                if mode == Preallocation::Metadata && format == Format::Raw {
                    return Err("Unsupported preallocation mode: metadata".into());
                }
                self.image.preallocation = mode;
            }
            "extended_l2" => self.image.extended_l2 = on_off(name, value)?,
            "compression_type" => {
                self.image.compression = match value {
                    "zlib" => Compression::Deflate,
                    "zstd" => Compression::Zstd,
                    _ => {
                        return Err(format!(
                            "Parameter 'compression-type' does not accept value '{value}'"
                        ));
                    }
                }
            }
            _ => return Err(format!("Invalid parameter '{name}'")),
        }
        self.repeat(name, Some(shown));
        Ok(())
    }
}

/// The version of qcow2 that a value of `compat` asks for.
pub fn version(compat: &str) -> Option<u32> {
    match compat {
        "0.10" | "v2" => Some(2),
        "1.1" | "v3" => Some(3),
        _ => None,
    }
}

/// Reads a value that switches `name` on or off.
///
/// # Errors
/// It is none.
pub fn on_off(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "on" | "yes" | "true" => Ok(true),
        "off" | "no" | "false" => Ok(false),
        _ => Err(format!("Parameter '{name}' expects 'on' or 'off'")),
    }
}

/// What the new image's backing file is called where it must not be written.
pub const BACKING: &str = "its backing file";

/// A look at the backing file: for its size, and to see that it can be used. It stays open while
/// the image is made.
async fn look_at_backing(tool: &Tool, file: &Path, wanted: &mut Wanted) -> Result<Kept, Failure> {
    let mut kept = Kept::default();
    let Some(backing) = &wanted.image.backing else {
        return Ok(kept);
    };
    let failed = |why: String| Failure::new(format!("{}: {why}", file.display()));
    let path = chain::resolve(file, backing)?;
    let reading = Reading {
        format: wanted.backing_format(),
        force_share: false,
        direct: false,
    };
    if backing.format.is_some() {
        check_allowed(tool, file, backing).map_err(failed)?;
    }
    let node = tool
        .open(&path, &reading)
        .await
        .map_err(|error| failed(format!("Could not open backing image: {error}")))?;
    if wanted.backing_format.is_none() {
        let found = node.format();
        return Err(failed(format!(
            "Backing file specified without backing format; it looks like {found}: say -F {found}"
        )));
    }
    wanted.size = wanted.size.or(Some(node.size()));
    kept.keep(BACKING, &node)?;
    Ok(kept)
}

/// The backing file that is not looked at is not written either.
async fn named_backing(tool: &Tool, file: &Path, wanted: &Wanted) -> Kept {
    let mut kept = Kept::default();
    if let Some(backing) = &wanted.image.backing
        && let Ok(path) = chain::resolve(file, backing)
    {
        let format = wanted.backing_format();
        kept.keep_named(BACKING, &tool.opener, &path, format).await;
    }
    kept
}

/// What of the options means something for QED.
fn qed(image: CreateOptions) -> qed::CreateOptions {
    qed::CreateOptions {
        size: image.size,
        cluster_size: image.cluster_size,
        backing: image.backing,
        ..Default::default()
    }
}
