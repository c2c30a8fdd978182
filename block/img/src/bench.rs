//! `strata-img bench`: how fast requests to an image are.

use std::{
    cell::{Cell, RefCell},
    path::PathBuf,
    rc::Rc,
    time::Instant,
};

use clap::Args;
use strata_exec::{
    Queue,
    mem::{SgList, to_usize},
    sync::promise,
};
use strata_graph::{Format, Node, chain::ImageOptions};
use strata_storage::{
    Aio,
    error::{IoError, IoResult},
};

use crate::{Failure, Tool, cache::CacheMode, output, size};

/// Numbers of requests and of bytes are shown, and limited, as 32-bit numbers with a sign.
const MOST: u64 = i32::MAX as u64;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  strata-img bench -c 10000 -d 16 -s 64k -f qcow2 disk.qcow2\n  strata-img bench -w --pattern=7 --flush-interval=100 -f raw scratch.raw"
)]
pub struct BenchArgs {
    /// Requests to send
    #[arg(short, value_name = "COUNT", default_value = "75000")]
    count: String,
    /// Requests in flight
    #[arg(short, value_name = "DEPTH", default_value = "64")]
    depth: String,
    /// Format of the image; guessed if not given, but not with -w
    #[arg(short, value_name = "FMT")]
    format: Option<Format>,
    /// Flush after so many requests (with -w)
    #[arg(long, value_name = "COUNT")]
    flush_interval: Option<String>,
    /// How requests are sent: threads, io_uring, or native (threads here)
    #[arg(short = 'i', value_name = "AIO", default_value = "threads")]
    aio: String,
    /// The same as -i native
    #[arg(short = 'n')]
    native: bool,
    /// Go on with requests while a flush is under way
    #[arg(long)]
    no_drain: bool,
    /// Where the first request starts
    #[arg(short, value_name = "OFFSET", default_value = "0")]
    offset: String,
    /// The byte to write
    #[arg(long, value_name = "BYTE", default_value = "0")]
    pattern: String,
    /// Print nothing but errors and results
    #[arg(short, long)]
    quiet: bool,
    /// Bytes of a request
    #[arg(short = 's', value_name = "SIZE", default_value = "4k")]
    buffer_size: String,
    /// Bytes between the starts of two requests; those of a request if not given
    #[arg(short = 'S', value_name = "SIZE")]
    step: Option<String>,
    /// How the image is cached
    #[arg(short = 't', value_name = "CACHE", default_value = "writeback")]
    cache: String,
    /// Write, rather than read
    #[arg(short)]
    write: bool,
    /// Open the image although somebody may be writing to it
    #[arg(short = 'U', long)]
    force_share: bool,
    /// The image
    file: PathBuf,
}

/// What is measured.
#[derive(Debug, Clone, Copy)]
struct Load {
    count: u64,
    depth: u64,
    offset: u64,
    len: u64,
    step: u64,
    write: bool,
    pattern: u8,
    /// Requests between two flushes, if any are wanted.
    flush: Option<u64>,
    drain: bool,
}

/// Runs the command.
pub async fn run(tool: &Tool, args: BenchArgs) -> Result<u8, Failure> {
    let load = args.load().map_err(Failure::new)?;
    let cache =
        CacheMode::parse(&args.cache, "cache").map_err(|_| Failure::new("Invalid cache mode"))?;
    let format = if args.write {
        Some(tool.format_to_write(&args.file, args.format).await?)
    } else {
        args.format
    };
    let options = ImageOptions {
        format,
        read_only: !args.write,
        no_flush: cache.no_flush,
        direct: cache.direct,
        aio: args.aio(),
        force_share: args.force_share,
        discard: true,
        ..ImageOptions::default()
    };
    let node = tool
        .open_named(&args.file, tool.everywhere.of(options))
        .await?;
    output::print(&load.describe())?;
    let start = Instant::now();
    let bench = Rc::new(Bench::new(node.clone(), load));
    let result = bench.clone().run(tool).await;
    let elapsed = start.elapsed();
    if let Err(error) = result {
        return Err(Failure::new(format!("Failed request: {error}")));
    }
    output::print(&format!(
        "Run completed in {:.3} seconds.\n",
        elapsed.as_secs_f64()
    ))?;
    node.image().close().await?;
    Ok(0)
}

impl BenchArgs {
    /// There is no way called native here.
    fn aio(&self) -> Aio {
        match &*self.aio {
            "io_uring" => Aio::IoUring,
            _ => Aio::Threads,
        }
    }

    fn load(&self) -> Result<Load, String> {
        let number = |text: &str, least: u64, what: &str| {
            let found = text.parse().ok().filter(|n| (least..=MOST).contains(n));
            found.ok_or_else(|| format!("Invalid {what} specified"))
        };
        let bytes = |text: &str, what: &str| {
            let found = size::parse(text).ok().filter(|n| *n <= MOST);
            found.ok_or_else(|| format!("Invalid {what} specified"))
        };
        if !["threads", "native", "io_uring"].contains(&&*self.aio) {
            return Err(format!("Invalid aio option: {}", self.aio));
        }
        let depth = number(&self.depth, 1, "queue depth")?;
        let interval = self.flush_interval.as_deref();
        let interval = interval.map(|text| number(text, 0, "flush interval"));
        let flush = interval.transpose()?.filter(|n| *n > 0);
        if flush.is_some() && !self.write {
            return Err("--flush-interval is only available in write tests".into());
        }
        if flush.is_some_and(|interval| interval < depth) {
            return Err("Flush interval can't be smaller than depth".into());
        }
        let pattern = self.pattern.parse();
        let len = bytes(&self.buffer_size, "buffer size")?;
        let step = self.step.as_deref().map(|text| bytes(text, "step_size"));
        Ok(Load {
            count: number(&self.count, 0, "request count")?,
            depth,
            offset: size::parse(&self.offset).map_err(|_| "Invalid offset specified")?,
            len,
            step: step.transpose()?.filter(|step| *step > 0).unwrap_or(len),
            write: self.write,
            pattern: pattern.map_err(|_| "Invalid pattern byte specified")?,
            flush,
            drain: !self.no_drain,
        })
    }
}

impl Load {
    fn describe(&self) -> String {
        let Self {
            count,
            depth,
            offset,
            len,
            step,
            ..
        } = self;
        let kind = if self.write { "write" } else { "read" };
        let mut text = format!(
            "Sending {count} {kind} requests, {len} bytes each, {depth} in parallel (starting at offset {offset}, step size {step})\n"
        );
        if let Some(interval) = self.flush {
            text += &format!("Sending flush every {interval} requests\n");
        }
        text
    }
}

struct Bench {
    node: Rc<Node>,
    load: Load,
    /// Requests that have been started.
    started: Cell<u64>,
    /// Requests that have ended.
    ended: Cell<u64>,
    offset: Cell<u64>,
    error: RefCell<IoResult<()>>,
}

impl Bench {
    fn new(node: Rc<Node>, load: Load) -> Self {
        Self {
            node,
            load,
            started: Cell::new(0),
            ended: Cell::new(0),
            offset: Cell::new(load.offset),
            error: RefCell::new(Ok(())),
        }
    }

    /// Sends all requests, in rounds that end with a flush where these are to be alone.
    async fn run(self: Rc<Self>, tool: &Tool) -> IoResult<()> {
        let load = &self.load;
        let round = load.flush.filter(|_| load.drain).unwrap_or(load.count);
        while self.started.get() < load.count && self.error.borrow().is_ok() {
            let end = (self.started.get() + round).min(load.count);
            self.send(tool, end).await;
            if load.drain && load.flush == Some(round) && end.is_multiple_of(round) {
                self.note(self.node.flush().await);
            }
        }
        self.error.borrow().clone()
    }

    /// Sends requests up to number `end`, and waits for them.
    async fn send(self: &Rc<Self>, tool: &Tool, end: u64) {
        let senders: Vec<_> = (0..self.load.depth.min(end - self.started.get()))
            .map(|_| {
                let (finished, wait) = promise();
                let bench = self.clone();
                tool.exec.spawn(Queue::Guest, async move {
                    bench.send_one_by_one(end).await;
                    drop(bench);
                    finished(());
                });
                wait
            })
            .collect();
        for sender in senders {
            sender.await;
        }
    }

    async fn send_one_by_one(&self, end: u64) {
        let len = self.load.len;
        let data = SgList::from_vec(vec![self.load.pattern; to_usize(len)]);
        while self.started.get() < end && self.error.borrow().is_ok() {
            self.started.set(self.started.get() + 1);
            let offset = self.next_offset();
            let end = offset.checked_add(len);
            let result = if end.is_none_or(|end| end > self.node.size()) {
                Err(IoError::OutOfRange)
            } else if self.load.write {
                self.node.write(offset, data.clone()).await
            } else {
                self.node.read(offset, data.clone()).await
            };
            self.note(result);
            self.ended.set(self.ended.get() + 1);
            let due = |interval: u64| self.ended.get().is_multiple_of(interval);
            if !self.load.drain && self.load.flush.is_some_and(due) {
                self.note(self.node.flush().await);
            }
        }
    }

    /// Requests start again at the front when they would reach over the end.
    fn next_offset(&self) -> u64 {
        let (offset, size) = (self.offset.get(), self.node.size());
        let next = offset.saturating_add(self.load.step);
        let fits = next
            .checked_add(self.load.len)
            .is_some_and(|end| end <= size);
        self.offset.set(if fits { next } else { 0 });
        offset
    }

    fn note(&self, result: IoResult<()>) {
        if result.is_err() && self.error.borrow().is_ok() {
            *self.error.borrow_mut() = result;
        }
    }
}
