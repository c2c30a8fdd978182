//! `strata-img compare`.

use std::{path::PathBuf, rc::Rc};

use clap::Args;
use strata_exec::mem::SgList;
use strata_graph::{Format, Node};

use crate::{Failure, Reading, Tool, cache::CacheMode, output, progress::Progress, status::Chain};

/// Bytes read at once.
const CHUNK: u64 = 2 << 20;
/// Percent between two prints of the progress.
const STEP: f64 = 2.0;
/// Differences are reported by sectors.
const SECTOR: usize = 512;

/// Exit code 0: the same content; 1: different; 2: the comparison failed.
#[derive(Args)]
#[command(after_help = "Example:\n  strata-img compare -f raw -F qcow2 disk.raw disk.qcow2")]
pub struct CompareArgs {
    /// Format of the first image; guessed if not given
    #[arg(short = 'f', value_name = "FMT")]
    first_format: Option<Format>,
    /// Format of the second image; guessed if not given
    #[arg(short = 'F', value_name = "FMT")]
    second_format: Option<Format>,
    /// Sizes and allocation have to be the same, too
    #[arg(short = 's')]
    strict: bool,
    /// How the images are cached
    #[arg(short = 'T', value_name = "CACHE", default_value = "writeback")]
    cache: String,
    /// Show the progress
    #[arg(short)]
    progress: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Open the images although somebody may be writing to them
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The first image
    first: PathBuf,
    /// The second image
    second: PathBuf,
}

/// Runs the command.
pub async fn run(tool: &Tool, args: CompareArgs) -> Result<u8, Failure> {
    let cache = CacheMode::parse(&args.cache, "source cache")
        .map_err(|why| Failure::new(why).with_code(2))?;
    let progress = Progress::new(args.progress && !args.quiet, STEP);
    match compare(tool, &args, cache, &progress).await {
        Ok(verdict) => {
            if !args.quiet {
                output::print(&format!("{}\n", verdict.text))?;
            }
            Ok(u8::from(verdict.differ))
        }
        Err(failure) => Err(failure.with_code(2)),
    }
}

struct Verdict {
    text: String,
    differ: bool,
}

fn differ(text: String) -> Result<Verdict, Failure> {
    Ok(Verdict { text, differ: true })
}

struct Side {
    node: Rc<Node>,
    chain: Chain,
}

async fn compare(
    tool: &Tool,
    args: &CompareArgs,
    cache: CacheMode,
    progress: &Progress,
) -> Result<Verdict, Failure> {
    let reading = |format| Reading {
        format,
        force_share: args.force_share,
        direct: cache.direct,
    };
    let first = side(tool, &args.first, &reading(args.first_format)).await?;
    let second = side(tool, &args.second, &reading(args.second_format)).await?;
    let (size, longer) = (first.chain.size(), second.chain.size());
    if size != longer && args.strict {
        return differ("Strict mode: Image size mismatch!".into());
    }
    let common = size.min(longer);
    let mut at = 0;
    while at < common {
        let a = first.chain.status(at, common - at).await?;
        let b = second.chain.status(at, a.len).await?;
        if args.strict && (a.present, a.zero, a.data) != (b.present, b.zero, b.data) {
            return differ(format!("Strict mode: Offset {at} block status mismatch!"));
        }
        let both_zero = a.zero && b.zero;
        let len = if both_zero { b.len } else { b.len.min(CHUNK) };
        if !both_zero {
            let (a, b) = (first.read(at, len).await?, second.read(at, len).await?);
            if let Some(n) = first_difference(&a, &b) {
                return differ(mismatch(at + n));
            }
        }
        at += len;
        progress.at(at, size.max(longer));
    }
    if size != longer && !args.quiet {
        output::print("Warning: Image size mismatch!\n")?;
    }
    let rest = if size > longer { &first } else { &second };
    if let Some(at) = rest.first_nonzero(common, progress).await? {
        return differ(mismatch(at));
    }
    Ok(Verdict {
        text: "Images are identical.".into(),
        differ: false,
    })
}

fn mismatch(at: u64) -> String {
    format!("Content mismatch at offset {at}!")
}

async fn side(tool: &Tool, path: &std::path::Path, reading: &Reading) -> Result<Side, Failure> {
    let node = tool.open(path, reading).await?;
    let chain = Chain::new(&node).await?;
    Ok(Side { node, chain })
}

impl Side {
    async fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, Failure> {
        let data = SgList::zeroed(usize::try_from(len)?);
        self.node.read(offset, data.clone()).await?;
        Ok(data.to_vec())
    }

    /// The first sector from `at` on that is not all zeros.
    async fn first_nonzero(
        &self,
        mut at: u64,
        progress: &Progress,
    ) -> Result<Option<u64>, Failure> {
        while at < self.chain.size() {
            let status = self.chain.status(at, self.chain.size() - at).await?;
            let len = if status.zero {
                status.len
            } else {
                status.len.min(CHUNK)
            };
            if !status.zero {
                let bytes = self.read(at, len).await?;
                if let Some(n) = first_difference(&bytes, &vec![0; bytes.len()]) {
                    return Ok(Some(at + n));
                }
            }
            at += len;
            progress.at(at, self.chain.size());
        }
        Ok(None)
    }
}

/// Offset of the first sector that differs.
fn first_difference(a: &[u8], b: &[u8]) -> Option<u64> {
    let mut sectors = a.chunks(SECTOR).zip(b.chunks(SECTOR));
    let sector = sectors.position(|(a, b)| a != b)?;
    Some((sector * SECTOR) as u64)
}
