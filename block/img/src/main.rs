//! `strata-img`: images at rest, with `qemu-img`'s options, output and exit codes.

#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]

mod amend;
mod bench;
mod bitmap;
mod cache;
mod chain;
mod check;
mod commit;
mod compare;
mod convert;
mod create;
mod dd;
mod drivers;
mod everywhere;
mod info;
mod map;
mod measure;
mod object;
mod open_error;
mod option_list;
mod output;
mod progress;
mod rebase;
mod resize;
mod size;
mod snapshot;
mod source;
mod status;
mod usage;
mod warnings;

use std::{path::Path, process::ExitCode, rc::Rc};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use open_error::OpenError;
use strata_exec::Executor;
use strata_graph::{
    Format, Node,
    chain::{ImageOptions, Opener},
};
use strata_storage::{outlive_size_limit, raise_descriptor_limit};

/// Makes, shows, checks and compares disk images.
#[derive(Parser)]
#[command(
    name = "strata-img",
    version,
    args_override_self = true,
    after_help = "Example:\n  strata-img create -f qcow2 -b base.qcow2 -F qcow2 overlay.qcow2\n  strata-img info --backing-chain overlay.qcow2"
)]
struct Cli {
    #[command(flatten)]
    everywhere: everywhere::Options,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a new image.
    Create(create::CreateArgs),
    /// Show what an image is.
    Info(info::InfoArgs),
    /// Draw a chain: its layers, what each holds, and what it would free.
    Chain(chain::ChainArgs),
    /// Check an image's metadata.
    Check(check::CheckArgs),
    /// Show where the data of an image lies.
    Map(map::MapArgs),
    /// List, make, apply or delete internal snapshots.
    Snapshot(snapshot::SnapshotArgs),
    /// Change the size of an image's disk.
    Resize(resize::ResizeArgs),
    /// Make, remove, clear or merge dirty bitmaps.
    Bitmap(bitmap::BitmapArgs),
    /// Compare the contents of two images.
    Compare(compare::CompareArgs),
    /// Show how much space an image would take.
    Measure(measure::MeasureArgs),
    /// Measure how fast requests to an image are.
    Bench(bench::BenchArgs),
    /// Change options of an image.
    Amend(amend::AmendArgs),
    /// Copy images into a new one, or into one that exists.
    Convert(convert::ConvertArgs),
    /// Copy a range of an image into a new one.
    Dd(dd::DdArgs),
    /// Write what an image holds into its backing file.
    Commit(commit::CommitArgs),
    /// Give an image another backing file.
    Rebase(rebase::RebaseArgs),
}

/// How a command prints what it has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Human,
    Json,
}

/// Options that every command which reads an image has.
#[derive(Args)]
struct Reading {
    /// Format of the image (raw, qcow2, qed); guessed if not given
    #[arg(short = 'f', value_name = "FMT")]
    format: Option<Format>,
    /// Open the image although somebody may be writing to it
    #[arg(short = 'U', long)]
    force_share: bool,
    /// What is read goes past the host's page cache (`-T` of commands that have it).
    #[arg(skip)]
    direct: bool,
}

/// Why a command failed, and its exit code.
struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    fn new(message: impl ToString) -> Self {
        Self {
            message: without_numbers(&message.to_string()),
            code: 1,
        }
    }

    fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }
}

/// Without the "(os error 2)" that Rust appends: users of `qemu-img` know the bare text.
fn without_numbers(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain += part.split_once(')').map_or("", |(_, rest)| rest);
    }
    plain
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

/// What commands work with.
struct Tool {
    exec: Rc<Executor>,
    opener: Opener,
    everywhere: everywhere::Options,
}

impl Tool {
    /// Opens an image and everything below it, for reading.
    async fn open(&self, path: &Path, reading: &Reading) -> Result<Rc<Node>, OpenError> {
        let options = self.everywhere.of(reading.options());
        self.open_named(path, options).await
    }

    /// Opens the image that a name on the command line means, and everything below it.
    async fn open_named(&self, name: &Path, options: ImageOptions) -> Result<Rc<Node>, OpenError> {
        let (path, options) = self.everywhere.named(name, options)?;
        Ok(self.opener.open(&path, &options).await?)
    }

    /// As [`Tool::open_named`], without what lies below.
    async fn open_named_layer(
        &self,
        name: &Path,
        options: ImageOptions,
    ) -> Result<Rc<Node>, OpenError> {
        let (path, options) = self.everywhere.named(name, options)?;
        Ok(self.opener.open_layer(&path, &options).await?)
    }

    /// Opens an image and everything below it, to change it.
    async fn open_for_writing(
        &self,
        path: &Path,
        format: Option<Format>,
    ) -> Result<Rc<Node>, Failure> {
        let format = self.format_to_write(path, format).await?;
        let options = ImageOptions {
            format: Some(format),
            discard: true,
            ..ImageOptions::default()
        };
        Ok(self.open_named(path, self.everywhere.of(options)).await?)
    }

    /// The format of an image that is going to be written: the one that the user has named.
    async fn format_to_write(
        &self,
        path: &Path,
        format: Option<Format>,
    ) -> Result<Format, Failure> {
        if let Some(format) = format {
            return Ok(format);
        }
        let options = ImageOptions {
            read_only: true,
            force_share: true,
            header_only: true,
            ..ImageOptions::default()
        };
        let (path, options) = self.everywhere.named(path, options)?;
        if let Some(format) = options.format {
            return Ok(format);
        }
        let opened = self.opener.open_layer(&path, &options).await;
        let found = opened.map_err(OpenError)?.format();
        Err(Failure::new(format!(
            "'{}': the format is never guessed for an image that is written; it looks like {found}: add -f {found}",
            path.display()
        )))
    }
}

/// Refuses an image whose bitmaps the specification does not have, in a command that is about them.
fn refuse_bad_bitmaps(node: &Node) -> Result<(), Failure> {
    let fault = node
        .image()
        .as_qcow2()
        .and_then(|image| image.bitmap_fault());
    let file = node.path().display();
    fault.map_or(Ok(()), |why| {
        Err(Failure::new(format!("Could not open '{file}': {why}")))
    })
}

impl Reading {
    fn options(&self) -> ImageOptions {
        ImageOptions {
            format: self.format,
            read_only: true,
            force_share: self.force_share,
            direct: self.direct,
            ..ImageOptions::default()
        }
    }
}

fn main() -> ExitCode {
    let cli = match usage::parse::<Cli>() {
        Ok(cli) => cli,
        Err(error) => return usage::report(&error, &Cli::command()),
    };
    if let Some(why) = cli.everywhere.refused() {
        return fail(&Failure::new(why));
    }
    warnings::print_all();
    if let Err(error) = outlive_size_limit().and_then(|()| raise_descriptor_limit()) {
        return fail(&Failure::new(error));
    }
    let exec = match Executor::new() {
        Ok(exec) => exec,
        Err(error) => return fail(&Failure::new(error)),
    };
    let tool = Tool {
        opener: Opener::new(exec.clone()),
        everywhere: cli.everywhere,
        exec: exec.clone(),
    };
    let result = exec.block_on(async move {
        match cli.command {
            Command::Create(args) => create::run(&tool, args).await,
            Command::Resize(args) => resize::run(&tool, args).await,
            Command::Snapshot(args) => snapshot::run(&tool, args).await,
            Command::Bitmap(args) => bitmap::run(&tool, args).await,
            Command::Info(args) => info::run(&tool, args).await,
            Command::Chain(args) => chain::run(&tool, args).await,
            Command::Check(args) => check::run(&tool, args).await,
            Command::Map(args) => map::run(&tool, args).await,
            Command::Compare(args) => compare::run(&tool, args).await,
            Command::Measure(args) => measure::run(&tool, args).await,
            Command::Bench(args) => bench::run(&tool, args).await,
            Command::Amend(args) => amend::run(&tool, args).await,
            Command::Convert(args) => convert::run(&tool, args).await,
            Command::Dd(args) => dd::run(&tool, args).await,
            Command::Commit(args) => commit::run(&tool, args).await,
            Command::Rebase(args) => rebase::run(&tool, args).await,
        }
    });
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => fail(&failure),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    eprintln!("strata-img: {}", failure.message);
    ExitCode::from(failure.code)
}
