//! `strata-img convert`.

mod bitmaps;
mod target;

use target::Target;

use std::{ffi::OsString, path::PathBuf, rc::Rc};

use clap::Args;
use strata_graph::{
    Format, Node,
    copy::{CopyOptions, Event, Source, Untouched, copy},
};

use crate::{
    Failure, Reading, Tool,
    cache::CacheMode,
    create::{self, Wanted},
    everywhere,
    progress::Progress,
    size,
    source::SnapshotParam,
};

/// Percent between two prints of the progress.
const STEP: f64 = 1.0;
/// Requests in flight that can be asked for.
const REQUESTS: std::ops::RangeInclusive<usize> = 1..=16;
/// `-S` if it is not given.
const SPARSE: &str = "4k";
/// Largest `-S`, in bytes.
const MAX_SPARSE: u64 = 16 << 20;

#[derive(Args)]
#[command(
    override_usage = "strata-img convert [OPTIONS] <SOURCE>... <TARGET>",
    after_help = "Examples:\n  strata-img convert -p -O qcow2 disk.raw disk.qcow2\n  strata-img convert -c -O qcow2 -o compression_type=zstd disk.qcow2 small.qcow2\n  strata-img convert -n -O raw disk.qcow2 nbd://localhost/disk"
)]
pub struct ConvertArgs {
    /// Format of the sources (raw, qcow2, qed); guessed if not given
    #[arg(short = 'f', value_name = "FMT")]
    format: Option<Format>,
    /// Format of the target [default: raw]
    #[arg(short = 'O', value_name = "FMT")]
    target_format: Option<Format>,
    /// Options of the target's format, as for create
    #[arg(short = 'o', value_name = "NAME=VALUE,...")]
    options: Vec<OsString>,
    /// Backing file of the target: only what the source holds above its own is copied
    #[arg(short = 'B', short_alias = 'b', value_name = "FILE")]
    backing: Option<OsString>,
    /// Format of the backing file
    #[arg(short = 'F', id = "new_format", value_name = "FMT")]
    backing_format: Option<Format>,
    /// Compress the target
    #[arg(short)]
    compress: bool,
    /// Requests in flight, 1 to 16
    #[arg(short = 'm', value_name = "N", default_value = "8")]
    requests: String,
    /// Write as requests end, not in the order of the disk
    #[arg(short = 'W')]
    any_order: bool,
    /// Bytes of zeros in a row that are not written [default: 4k]; 0 fully allocates the target
    #[arg(short = 'S', value_name = "SIZE")]
    sparse: Option<String>,
    /// Have the host copy data from file to file where it can (raw targets); zeros are not looked
    /// for then
    #[arg(short = 'C')]
    offload: bool,
    /// Bytes to write a second at most; 0 for no limit
    #[arg(short = 'r', value_name = "RATE")]
    limit: Option<String>,
    /// Copy the persistent bitmaps of the source's top layer
    #[arg(long)]
    bitmaps: bool,
    /// With --bitmaps, leave out those that are out of date
    #[arg(long)]
    skip_broken_bitmaps: bool,
    /// Make zeros of what cannot be read, and say where
    #[arg(long)]
    salvage: bool,
    /// Write to a target that exists already
    #[arg(short = 'n')]
    existing: bool,
    /// The target is given as options of block drivers (driver=qcow2,file.filename=...), with -n
    #[arg(long)]
    target_image_opts: bool,
    /// The target is known to read as zeros (with -n)
    #[arg(long)]
    target_is_zero: bool,
    /// How the target is cached: unsafe does not wait for the disk; none and directsync go past the
    /// page cache (O_DIRECT)
    #[arg(short = 't', value_name = "CACHE", default_value = "unsafe")]
    cache: String,
    /// How the sources are cached: none and directsync go past the page cache
    #[arg(short = 'T', value_name = "CACHE", default_value = "writeback")]
    source_cache: String,
    /// Copy an internal snapshot of the source: its id or name, or
    /// snapshot.id=ID,snapshot.name=NAME
    #[arg(short = 'l', value_name = "SNAPSHOT")]
    snapshot: Option<String>,
    /// Show the progress
    #[arg(short)]
    progress: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Open the sources although somebody may be writing to them
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The images to copy, one behind the other, and last the target
    #[arg(value_names = ["SOURCE", "TARGET"])]
    files: Vec<PathBuf>,
}

/// What of the options can be judged before a file is looked at.
struct Checked {
    snapshot: Option<SnapshotParam>,
    wanted: Wanted,
    has_backing: bool,
    requests: usize,
    sparse: u64,
    speed: u64,
    source_cache: CacheMode,
    cache: CacheMode,
}

/// Runs the command.
pub async fn run(tool: &Tool, args: ConvertArgs) -> Result<u8, Failure> {
    let target = match args.files.split_last() {
        Some((target, sources)) if !sources.is_empty() => Some(target.as_path()),
        _ => None,
    };
    if create::print_help(args.target_format(), &args.options, target)? {
        return Ok(0);
    }
    let checked = args.check().map_err(Failure::new)?;
    let progress = Progress::new(args.progress && !args.quiet, STEP);
    let (target, sources) = match args.files.split_last() {
        Some((target, sources)) if !sources.is_empty() => (everywhere::target(target), sources),
        _ => return Err(Failure::new("Must specify image file name")),
    };
    let reading = Reading {
        format: args.format,
        force_share: args.force_share,
        direct: checked.source_cache.direct,
    };
    let mut tops = Vec::new();
    for path in sources {
        let top = tool.open(path, &reading).await?;
        if let Some(snapshot) = &checked.snapshot {
            snapshot.show(&top).await?;
        }
        tops.push(top);
    }
    if args.bitmaps {
        bitmaps::check(&tops[0], args.skip_broken_bitmaps)?;
    }
    let len = tops.iter().map(|top| top.size()).sum();
    let kept = args.kept(tool, target, &checked, &tops).await?;
    let target = args.open_target(tool, target, len, &checked, &kept).await?;
    let result = args.copy(tool, &checked, &tops, &target, progress).await;
    if result.is_err() {
        target.give_up().await;
    }
    result.map(|()| 0)
}

impl ConvertArgs {
    fn target_format(&self) -> Format {
        self.target_format.unwrap_or(Format::Raw)
    }

    fn check(&self) -> Result<Checked, String> {
        let wanted = self.wanted()?;
        let has_backing = wanted.backing.is_some();
        let requests = self.requests.parse().ok();
        let requests = requests.filter(|n| REQUESTS.contains(n)).ok_or(
            "Invalid number of coroutines. Allowed number of coroutines is between 1 and 16",
        )?;
        let sparse = self.sparse.as_deref().unwrap_or(SPARSE);
        let sparse = size::parse(sparse)
            .ok()
            .filter(|bytes| bytes.is_multiple_of(512) && *bytes <= MAX_SPARSE)
            .ok_or_else(|| format!("Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to {MAX_SPARSE}. Select 0 to disable sparse detection (fully allocates output)."))?;
        if self.target_is_zero && !self.existing {
            return Err("--target-is-zero requires use of -n flag".into());
        }
        if self.target_image_opts && !self.existing {
            return Err("--target-image-opts requires use of -n flag".into());
        }
        if self.target_image_opts && self.target_format.is_some() {
            return Err("--image-opts and --format are mutually exclusive".into());
        }
        if self.existing && !self.options.is_empty() {
            return Err("-o has no effect when skipping image creation".into());
        }
        if self.files.len() > 2 && has_backing {
            return Err("Having a backing file for the target makes no sense when concatenating multiple input images".into());
        }
        let backing = wanted.image.backing.as_ref();
        if !self.existing && backing.is_some_and(|backing| backing.format.is_none()) {
            return Err("Use of backing file requires explicit backing format".into());
        }
        if self.compress && !self.target_image_opts && self.target_format() != Format::Qcow2 {
            return Err("Compression not supported for this file format".into());
        }
        if self.target_is_zero && has_backing {
            return Err(
                "Cannot use --target-is-zero when the destination image has a backing file".into(),
            );
        }
        let snapshot = self.snapshot.as_deref().map(SnapshotParam::parse);
        if snapshot.is_some() && self.files.len() > 2 {
            return Err("No support for concatenating multiple snapshot".into());
        }
        self.check_ways()?;
        Ok(Checked {
            snapshot: snapshot.transpose()?,
            wanted,
            has_backing,
            requests,
            sparse,
            speed: size::rate(self.limit.as_deref())?,
            source_cache: CacheMode::parse(&self.source_cache, "source cache")?,
            cache: CacheMode::parse(&self.cache, "cache")?,
        })
    }

    /// Whether the ways of copying that are asked for go together.
    fn check_ways(&self) -> Result<(), &'static str> {
        Err(if self.offload && self.sparse.is_some() {
            "Cannot enable copy offloading when -S is used"
        } else if self.offload && self.compress {
            "Cannot enable copy offloading when -c is used"
        } else if self.offload && self.salvage {
            "Cannot use copy offloading in salvaging mode"
        } else if self.bitmaps && self.files.len() > 2 {
            "Copying bitmaps only possible with single source"
        } else if self.skip_broken_bitmaps && !self.bitmaps {
            "Use of --skip-broken-bitmaps requires --bitmaps"
        } else {
            return Ok(());
        })
    }

    async fn copy(
        &self,
        tool: &Tool,
        checked: &Checked,
        tops: &[Rc<Node>],
        target: &Target,
        progress: Progress,
    ) -> Result<(), Failure> {
        let untouched = self.untouched(target, checked.has_backing);
        let target = &target.node;
        let progress = Rc::new(progress);
        let options = CopyOptions {
            requests: checked.requests,
            any_order: self.any_order,
            sparse: checked.sparse,
            compress: self.compress,
            untouched,
            offload: self.offload,
            salvage: self.salvage,
            speed: checked.speed,
        };
        if self.bitmaps {
            bitmaps::check_target(target)?;
        }
        let sources = tops.iter().map(|top| Source {
            top: top.clone(),
            base: top.backing().filter(|_| checked.has_backing),
        });
        let shown = progress.clone();
        let quiet = self.quiet;
        let report = move |event: Event<'_>| match event {
            Event::Progress { done, total } => shown.at(done, total),
            Event::Lost { len, error, .. } if !quiet => {
                eprintln!("strata-img: warning: {error}: {len} bytes become zeros");
            }
            Event::Lost { .. } => {}
        };
        copy(
            &tool.exec,
            sources.collect(),
            target.clone(),
            options,
            report,
        )
        .await?;
        if self.bitmaps {
            bitmaps::copy(&tops[0], target).await?;
        }
        target.image().close().await?;
        progress.at(1, 1);
        Ok(())
    }

    /// What the target shows before anything has been written.
    fn untouched(&self, target: &Target, has_backing: bool) -> Untouched {
        if has_backing {
            return Untouched::Base(target.node.backing().map_or(0, |base| base.size()));
        }
        if self.target_is_zero || target.is_blank {
            Untouched::Zeros
        } else {
            Untouched::Unknown
        }
    }
}
