//! `strata-img measure`.

use std::{ffi::OsString, path::PathBuf};

use clap::Args;
use serde::Serialize;
use strata_format::qcow2::{self, CreateOptions, Qcow2};
use strata_graph::{Format, Node};

use crate::{
    Failure, Output, Reading, Tool, create, output, refuse_bad_bitmaps, size,
    source::SnapshotParam, status::Chain,
};

#[derive(Args)]
#[command(
    after_help = "Examples:\n  strata-img measure -O qcow2 --size 100G\n  strata-img measure --output=json -O qcow2 -o cluster_size=1M disk.raw"
)]
pub struct MeasureArgs {
    /// Format of the image to be copied; guessed if not given
    #[arg(short = 'f', value_name = "FMT")]
    format: Option<Format>,
    /// Format of the new image
    #[arg(short = 'O', value_name = "FMT", default_value = "raw")]
    target_format: Format,
    /// Options of the new image, as for create
    #[arg(short = 'o', value_name = "NAME=VALUE,...")]
    options: Vec<OsString>,
    /// Size of the new image's disk, which is empty
    #[arg(long, value_name = "SIZE")]
    size: Option<String>,
    /// Measure an internal snapshot of the image: its id or name, or
    /// snapshot.id=ID,snapshot.name=NAME
    #[arg(short = 'l', value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// How to print it
    #[arg(long, value_enum, default_value = "human")]
    output: Output,
    /// Open the image although somebody may be writing to it
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The image that would be copied
    files: Vec<PathBuf>,
}

/// `BlockMeasureInfo`.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Measured {
    #[serde(skip_serializing_if = "Option::is_none")]
    bitmaps: Option<u64>,
    required: u64,
    fully_allocated: u64,
}

/// Runs the command.
pub async fn run(tool: &Tool, args: MeasureArgs) -> Result<u8, Failure> {
    args.check().map_err(Failure::new)?;
    let target = create::Target {
        format: args.target_format,
        options: &args.options,
        backing: None,
        backing_format: None,
        any_backing_format: false,
    };
    let mut image = target.wanted().map_err(Failure::new)?.image;
    let measured = if let Some(file) = args.files.first() {
        let reading = Reading {
            format: args.format,
            force_share: args.force_share,
            direct: false,
        };
        let source = tool.open(file, &reading).await?;
        refuse_bad_bitmaps(&source)?;
        if let Some(text) = &args.snapshot {
            let snapshot = SnapshotParam::parse(text).map_err(Failure::new)?;
            snapshot.show(&source).await?;
        }
        let chain = Chain::new(&source).await?;
        image.size = chain.size();
        let data = match args.target_format {
            Format::Qcow2 => data(&chain, &image).await?,
            Format::Raw | Format::Qed => 0,
        };
        args.measure(&image, data, Some(&source))
    } else {
        let size = args.size.as_deref().unwrap_or("0");
        image.size = size::parse(size).map_err(Failure::new)?;
        args.measure(&image, 0, None)
    };
    let measured = measured.map_err(Failure::new)?;
    match args.output {
        Output::Json => output::print_json(&measured)?,
        Output::Human => output::print(&measured.human())?,
    }
    Ok(0)
}

impl MeasureArgs {
    fn check(&self) -> Result<(), &'static str> {
        match (&self.size, self.files.len()) {
            (_, 2..) => Err("At most one filename argument is allowed."),
            (None, 0) => Err("Either --size N or one filename must be specified."),
            (Some(_), 0) if self.format.is_some() || self.snapshot.is_some() => {
                Err("--image-opts, -f, and -l require a filename argument.")
            }
            (Some(_), 1) => Err("--size N cannot be used together with a filename."),
            _ => Ok(()),
        }
    }

    fn measure(
        &self,
        image: &CreateOptions,
        data: u64,
        source: Option<&Node>,
    ) -> Result<Measured, String> {
        let too_large = "The image size is too large";
        match self.target_format {
            Format::Raw => {
                let size = image.size.checked_next_multiple_of(512).ok_or(too_large)?;
                Ok(Measured {
                    required: size,
                    fully_allocated: size,
                    bitmaps: None,
                })
            }
            Format::Qcow2 => {
                let measured = qcow2::measure(image, data)?;
                let source = source.and_then(|node| node.image().as_qcow2());
                let bitmaps = |source: &Qcow2| source.measure_bitmaps(image.cluster_size);
                Ok(Measured {
                    required: measured.required,
                    fully_allocated: measured.fully_allocated,
                    bitmaps: source.filter(|_| image.version > 2).and_then(bitmaps),
                })
            }
            Format::Qed => Err("Block driver 'qed' does not support size measurement".into()),
        }
    }
}

/// Bytes that have to be written to a copy of the chain, in whole clusters of that.
async fn data(chain: &Chain, image: &CreateOptions) -> Result<u64, Failure> {
    // Which of it the new image would share with its backing file is not known.
    if image.backing.is_some() {
        return Ok(image.size.next_multiple_of(image.cluster_size));
    }
    let (mut at, mut data) = (0, 0);
    while at < chain.size() {
        let status = chain.status(at, chain.size() - at).await?;
        let mut end = at + status.len;
        if status.data && status.present && !status.zero {
            end = end.next_multiple_of(image.cluster_size);
            data += end - (at - at % image.cluster_size);
        }
        at = end;
    }
    Ok(data)
}

impl Measured {
    fn human(&self) -> String {
        let mut text = format!(
            "required size: {}\nfully allocated size: {}\n",
            self.required, self.fully_allocated
        );
        if let Some(bytes) = self.bitmaps {
            text += &format!("bitmaps size: {bytes}\n");
        }
        text
    }
}
