//! `strata-img dd`.

use std::{
    ffi::{OsStr, OsString},
    fs,
    ops::Range,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    rc::Rc,
};

use clap::Args;
use strata_exec::mem::SgList;
use strata_graph::{Format, Kept, Node, chain::ImageOptions};
use strata_storage::FileHints;

use crate::{Failure, Reading, Tool, create, everywhere, open_error::OpenError, size};

/// Bytes copied at once. Where the target is new, what is all zeros is left out.
const CHUNK: u64 = 64 << 10;
/// Bytes of a block when nothing is said.
const BLOCK: u64 = 512;

/// As in `qemu-img` 7.2 the target ends where `count` blocks of the input end, also with `skip`.
#[derive(Args)]
#[command(
    override_usage = "strata-img dd [OPTIONS] [bs=<SIZE>] [count=<BLOCKS>] [skip=<BLOCKS>] if=<INPUT> of=<OUTPUT>",
    after_help = "Example:\n  strata-img dd -f qcow2 -O raw bs=1M count=64 if=disk.qcow2 of=start.raw"
)]
pub struct DdArgs {
    #[command(flatten)]
    reading: Reading,
    /// Format of the output
    #[arg(short = 'O', value_name = "FMT", default_value = "raw")]
    target_format: Format,
    /// if=INPUT, of=OUTPUT, bs=SIZE, count=BLOCKS, skip=BLOCKS
    #[arg(value_name = "OPERAND")]
    operands: Vec<OsString>,
}

/// What the operands say.
#[derive(Debug, Default)]
struct Wanted {
    input: Option<PathBuf>,
    output: Option<PathBuf>,
    block: Option<u64>,
    count: Option<u64>,
    skip: u64,
}

impl Wanted {
    fn parse(operands: &[OsString]) -> Result<Self, String> {
        let mut wanted = Self::default();
        for operand in operands {
            let bytes = operand.as_bytes();
            let end = bytes.iter().position(|byte| *byte == b'=');
            let (name, file) = bytes.split_at(end.unwrap_or(bytes.len()));
            // Only a file's name may be anything.
            let file = OsStr::from_bytes(file.strip_prefix(b"=").unwrap_or_default());
            let (name, value) = (&*String::from_utf8_lossy(name), &*file.to_string_lossy());
            let number =
                || size::parse(value).map_err(|why| format!("Invalid {name} specified. {why}"));
            match name {
                "if" => wanted.input = Some(file.into()),
                "of" => wanted.output = Some(file.into()),
                "bs" => {
                    let bytes = Some(number()?).filter(|n| (1..=i32::MAX as u64).contains(n));
                    let range = "Invalid bs specified. Must be between 1 and 2147483647.";
                    wanted.block = Some(bytes.ok_or(range)?);
                }
                "count" => wanted.count = Some(number()?),
                "skip" => wanted.skip = number()?,
                _ => return Err(format!("unrecognized operand {name}")),
            }
        }
        Ok(wanted)
    }

    /// What is copied of an input of `size` bytes; `None` if it would begin behind the end.
    fn range(&self, size: u64) -> Option<Range<u64>> {
        let bytes = |blocks: u64| blocks.saturating_mul(self.block.unwrap_or(BLOCK));
        let end = self.count.map_or(size, |count| bytes(count).min(size));
        let start = bytes(self.skip);
        (start <= end).then_some(start..end)
    }
}

/// Runs the command.
pub async fn run(tool: &Tool, args: DdArgs) -> Result<u8, Failure> {
    let wanted = Wanted::parse(&args.operands).map_err(Failure::new)?;
    let (Some(input), Some(output)) = (&wanted.input, &wanted.output) else {
        return Err(Failure::new("Must specify both input and output files"));
    };
    let output = everywhere::target(output);
    let source = tool.open(input, &args.reading).await?;
    let range = wanted.range(source.size()).unwrap_or_else(|| {
        let input = input.display();
        eprintln!("strata-img: warning: {input}: cannot skip to specified offset");
        0..0
    });
    let format = args.target_format;
    let mut kept = Kept::default();
    kept.keep("the input", &source)?;
    let made = make(tool, output, format, range.end - range.start, &kept).await?;
    let output = Output {
        path: output,
        format,
        kept: &kept,
    };
    let result = write(tool, &source, range, &output).await;
    if let (Err(_), Some(path)) = (&result, &made) {
        // The error says more than one about what is left would.
        let _ = fs::remove_file(path);
    }
    result.map(|()| 0)
}

/// Where to write.
struct Output<'a> {
    path: &'a Path,
    format: Format,
    /// It is none of these.
    kept: &'a Kept,
}

/// Makes the target; the path of its file if that is new.
async fn make(
    tool: &Tool,
    path: &Path,
    format: Format,
    size: u64,
    kept: &Kept,
) -> Result<Option<PathBuf>, Failure> {
    let target = create::Target {
        format,
        options: &[],
        backing: None,
        backing_format: None,
        any_backing_format: false,
    };
    let mut image = target.wanted().map_err(Failure::new)?.image;
    image.size = size;
    let hints = FileHints::default();
    let made = create::make(tool, path, format, image, true, kept, hints).await;
    made.map_err(|why| {
        let file = path.display();
        Failure::new(format!(
            "{file}: error while creating output image of type {format}: {why}"
        ))
    })
}

async fn write(
    tool: &Tool,
    source: &Rc<Node>,
    range: Range<u64>,
    output: &Output<'_>,
) -> Result<(), Failure> {
    let options = ImageOptions {
        format: Some(output.format),
        discard: true,
        ..ImageOptions::default()
    };
    let options = tool.everywhere.of(options);
    let target = tool.opener.open(output.path, &options).await;
    let target = target.map_err(OpenError)?;
    output.kept.check(target.image().storage())?;
    // A raw device shows what it has always held.
    let fresh = output.format != Format::Raw || !target.image().storage().has_fixed_len();
    let copied = copy(source, range, &target, fresh).await;
    let closed = target.image().close().await;
    copied?;
    Ok(closed?)
}

/// Copies a range of `source` to the beginning of `target`, which shows zeros if it is `fresh`.
async fn copy(
    source: &Rc<Node>,
    range: Range<u64>,
    target: &Node,
    fresh: bool,
) -> Result<(), Failure> {
    let len = range.end - range.start;
    if target.size() < len {
        return Err(Failure::new("the output is smaller than what is copied"));
    }
    let mut done = 0;
    while done < len {
        let part = CHUNK.min(len - done);
        let data = SgList::zeroed(usize::try_from(part)?);
        source.read(range.start + done, data.clone()).await?;
        if !(fresh && data.is_zero()) {
            target.write(done, data).await?;
        }
        done += part;
    }
    Ok(())
}
