//! `strata-img create`.

mod help;

pub use help::{amend_text as amend_help, is_wanted as wants_help};

use std::path::{Path, PathBuf};

use clap::Args;
use strata_block::{
    engine::{NewImage, replace_image},
    error::Error,
    graph::{Format, chain},
    qcow2::{Backing, Compression, CreateOptions, DataFile, Preallocation},
    qed,
};

use crate::{Failure, Reading, Tool, output, size};

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
    backing: Option<String>,
    /// Format of the backing file
    #[arg(short = 'F', value_name = "FMT")]
    backing_format: Option<Format>,
    /// Options of the format: backing_file, backing_fmt, cluster_size, compat, compression_type, data_file, data_file_raw, extended_l2, lazy_refcounts, preallocation, refcount_bits, size
    #[arg(short = 'o', value_name = "NAME=VALUE,...")]
    options: Vec<String>,
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
    pub options: &'a [String],
    pub backing: Option<String>,
    pub backing_format: Option<Format>,
}

/// What `-o` and the other options ask for.
pub struct Wanted {
    pub size: Option<u64>,
    pub backing: Option<String>,
    backing_format: Option<Format>,
    data_file: Option<String>,
    data_file_raw: bool,
    pub image: CreateOptions,
}

/// Prints the options of a format if that is what `-o` asks for; whether it is.
pub fn print_help(format: Format, options: &[String]) -> Result<bool, Failure> {
    let wanted = help::is_wanted(options);
    if wanted {
        output::print(&help::text(format))?;
    }
    Ok(wanted)
}

/// Runs the command.
pub async fn run(tool: &Tool, args: CreateArgs) -> Result<u8, Failure> {
    if print_help(args.format, &args.options)? {
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
    };
    let mut wanted = target.wanted().map_err(failed)?;
    if let Some(text) = &args.size {
        let size = size::parse(text).map_err(failed)?;
        if wanted.size.replace(size).is_some() {
            return Err(failed("The image size must be specified only once".into()));
        }
    }
    if !args.unsafe_backing {
        look_at_backing(tool, file, &mut wanted).await?;
    } else if wanted.backing.is_some() && wanted.backing_format.is_none() {
        return Err(failed(
            "Backing file specified without backing format: say -F FMT".into(),
        ));
    }
    wanted.image.size = wanted
        .size
        .ok_or_else(|| failed("Image creation needs a size parameter".into()))?;
    if !args.quiet {
        output::print(&formatting(file, args.format, &wanted.image))?;
    }
    let made = make(tool, file, args.format, wanted.image, true).await;
    made.map_err(failed)?;
    Ok(0)
}

/// Makes an image; says whether the file is new, or why it could not be made.
pub async fn make(
    tool: &Tool,
    file: &Path,
    format: Format,
    image: CreateOptions,
    durable: bool,
) -> Result<bool, String> {
    let image = match format {
        Format::Qcow2 => NewImage::Qcow2(image),
        Format::Qed => NewImage::Qed(qed(image)),
        Format::Raw => NewImage::Raw {
            size: image.size,
            preallocation: image.preallocation,
        },
    };
    let made = replace_image(&tool.exec, file, image, durable).await;
    made.map_err(|error| match error {
        Error::Image { why, .. } => why,
        error => error.to_string(),
    })
}

impl Target<'_> {
    /// Reads the options.
    pub fn wanted(&self) -> Result<Wanted, String> {
        let mut wanted = Wanted {
            size: None,
            backing: self.backing.clone(),
            backing_format: self.backing_format,
            data_file: None,
            data_file_raw: false,
            image: CreateOptions::default(),
        };
        for option in self.options.iter().flat_map(|list| split_options(list)) {
            wanted.set(&option, self.format)?;
        }
        wanted.name_data_file()?;
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
        let format = wanted.backing_format.map(|format| format.name().to_owned());
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

/// The single options of all values of `-o`.
///
/// # Errors
/// A list begins or ends with a comma.
pub fn option_list(lists: &[String]) -> Result<Vec<String>, String> {
    let invalid = |list: &&String| {
        // A doubled comma belongs to a value; it needs one to belong to.
        let trailing = list.chars().rev().take_while(|c| *c == ',').count();
        list.is_empty() || list.starts_with(',') || !trailing.is_multiple_of(2)
    };
    if let Some(list) = lists.iter().find(invalid) {
        return Err(format!("Invalid option list: {list}"));
    }
    Ok(lists.iter().flat_map(|list| split_options(list)).collect())
}

/// Splits at commas; a doubled comma is one within a value.
fn split_options(list: &str) -> Vec<String> {
    let marked = list.replace(",,", "\0");
    marked
        .split(',')
        .map(|part| part.replace('\0', ","))
        .collect()
}

impl Wanted {
    fn name_data_file(&mut self) -> Result<(), String> {
        let raw = self.data_file_raw;
        self.image.data_file = self.data_file.take().map(|name| DataFile { name, raw });
        if raw && self.image.data_file.is_none() {
            return Err("data-file-raw requires data-file".into());
        }
        Ok(())
    }

    fn set(&mut self, option: &str, format: Format) -> Result<(), String> {
        // What is switched on needs no value.
        let (name, value) = option.split_once('=').unwrap_or((option, "on"));
        if name == "encryption" && value != "off" || name.starts_with("encrypt.") {
            return Err(format!("'{name}': images cannot be encrypted"));
        }
        if ["nocow", "extent_size_hint"].contains(&name) {
            return Err(format!("'{name}' is not supported: leave it out"));
        }
        let known = match format {
            Format::Qcow2 => true,
            Format::Raw => matches!(name, "size" | "preallocation"),
            Format::Qed => {
                matches!(
                    name,
                    "size" | "backing_file" | "backing_fmt" | "cluster_size"
                )
            }
        };
        if !known {
            return Err(format!("Invalid parameter '{name}'"));
        }
        match name {
            "size" => self.size = Some(size::parse(value)?),
            "backing_file" => self.backing = Some(value.to_owned()),
            "backing_fmt" => {
                let format = value.parse::<Format>().map_err(|error| error.to_string())?;
                self.backing_format = Some(format);
            }
            "cluster_size" => self.image.cluster_size = size::parse(value)?,
            "compat" => {
                let unknown = || format!("Invalid parameter '{value}'");
                self.image.version = version(value).ok_or_else(unknown)?;
            }
            "data_file" => self.data_file = Some(value.to_owned()),
            "data_file_raw" => self.data_file_raw = on_off(name, value)?,
            "lazy_refcounts" => self.image.lazy_refcounts = on_off(name, value)?,
            "refcount_bits" => {
                self.image.refcount_bits = value
                    .parse()
                    .map_err(|_| format!("Parameter '{name}' expects a number"))?;
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

/// A look at the backing file: for its size, and to see that it can be used.
async fn look_at_backing(tool: &Tool, file: &Path, wanted: &mut Wanted) -> Result<(), Failure> {
    let Some(backing) = &wanted.image.backing else {
        return Ok(());
    };
    let failed = |why: String| Failure::new(format!("{}: {why}", file.display()));
    let path = chain::resolve(file, backing)?;
    let reading = Reading {
        format: wanted.backing_format,
        force_share: false,
        direct: false,
    };
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
    Ok(())
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

/// The line that `qemu-img create` prints.
fn formatting(path: &Path, format: Format, image: &CreateOptions) -> String {
    let start = format!("Formatting '{}', fmt={format}", path.display());
    let preallocation = match image.preallocation {
        Preallocation::Off => String::new(),
        other => format!(" preallocation={}", other.name()),
    };
    if format == Format::Raw {
        return format!("{start} size={}{preallocation}\n", image.size);
    }
    if format == Format::Qed {
        let backing = image.backing.as_ref().map(|backing| {
            let format = backing
                .format
                .as_deref()
                .map(|f| format!(" backing_fmt={f}"));
            format!(
                " backing_file={}{}",
                backing.name,
                format.unwrap_or_default()
            )
        });
        let (size, backing) = (image.size, backing.unwrap_or_default());
        let cluster_size = image.cluster_size;
        return format!("{start} size={size}{backing} cluster_size={cluster_size}\n");
    }
    let on_off = |on| if on { "on" } else { "off" };
    let compression = match image.compression {
        Compression::Deflate => "zlib",
        Compression::Zstd => "zstd",
    };
    let mut line = format!(
        "{start} cluster_size={} extended_l2={}{preallocation} compression_type={} size={}",
        image.cluster_size,
        on_off(image.extended_l2),
        compression,
        image.size
    );
    if image.version == 2 {
        line += " compat=0.10";
    }
    if let Some(backing) = &image.backing {
        line += &format!(" backing_file={}", backing.name);
        let format = backing
            .format
            .iter()
            .map(|format| format!(" backing_fmt={format}"));
        line.extend(format);
    }
    if let Some(file) = &image.data_file {
        line += &format!(" data_file={}", file.name);
        line += if file.raw { " data_file_raw=on" } else { "" };
    }
    line += &format!(
        " lazy_refcounts={} refcount_bits={}\n",
        on_off(image.lazy_refcounts),
        image.refcount_bits
    );
    line
}
