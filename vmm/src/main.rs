//! `strata`: boots guests on layered disks, and serves such disks to others.

use std::{
    error::Error,
    fs::File,
    io::{self, IsTerminal},
    process::ExitCode,
    time::Instant,
};

use clap::{CommandFactory, Parser, error::ErrorKind};
use strata_block::storage::{outlive_size_limit, raise_descriptor_limit};
use strata_vmm::{
    cli::{Cli, Command, RunArgs},
    doctor,
    machine::{self, Transcript},
    run_result::{FAILED, RunResult},
    serve,
};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let begin = Instant::now();
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()))
        .init();
    if let Err(error) = outlive_size_limit() {
        tracing::warn!(%error, "a file that reaches its size limit will end the process");
    }
    if let Err(error) = raise_descriptor_limit() {
        tracing::warn!(%error, "long chains may need more open files than the process may have");
    }
    let result = match cli.command {
        Command::Run(args) => return run(&args, begin),
        Command::Serve(args) => serve::run(&args).map_err(Into::into),
        Command::Doctor(args) => doctor::run(&args.dir).map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err::<_, Box<dyn Error>>(error) => {
            eprintln!("strata: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `strata run`. Does not return from wrong usage.
fn run(args: &RunArgs, begin: Instant) -> ExitCode {
    let serial = args.serial().unwrap_or_else(|conflict| {
        let kind = ErrorKind::ArgumentConflict;
        Cli::command().error(kind, conflict).exit()
    });
    // Before the guest runs: nobody wants to learn of a mistyped folder after an hour.
    let file = match args.ending.result.as_ref().map(File::create).transpose() {
        Ok(file) => file,
        Err(error) => return result_not_written(args, &error),
    };
    let transcript = Transcript::default();
    let ended = machine::run(args, &serial, &transcript, begin);
    let result = RunResult::new(args, ended, &transcript, begin);
    eprint!("{}", result.for_people());
    if let Some(file) = file
        && let Err(error) = result.write(&file)
    {
        return result_not_written(args, &error);
    }
    ExitCode::from(result.exit_status)
}

fn result_not_written(args: &RunArgs, error: &io::Error) -> ExitCode {
    let path = args.ending.result.as_deref().unwrap_or("".as_ref());
    eprintln!(
        "strata: could not write --result {}: {error}",
        path.display()
    );
    ExitCode::from(FAILED)
}
