//! `strata`: boots guests on layered disks, and serves such disks to others.

use std::{
    error::Error,
    io::{self, IsTerminal},
    process::ExitCode,
};

use clap::{CommandFactory, Parser, error::ErrorKind};
use strata_block::storage::{outlive_size_limit, raise_descriptor_limit};
use strata_vmm::{
    cli::{Cli, Command, RunArgs},
    doctor, machine, serve,
};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
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
        Command::Run(args) => run(&args),
        Command::Serve(args) => serve::run(&args).map_err(Into::into),
        Command::Doctor(args) => doctor::run(&args.dir).map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("strata: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `strata run`. Does not return from wrong usage.
fn run(args: &RunArgs) -> Result<(), Box<dyn Error>> {
    let serial = args.serial().unwrap_or_else(|conflict| {
        let kind = ErrorKind::ArgumentConflict;
        Cli::command().error(kind, conflict).exit()
    });
    Ok(machine::run(args, &serial)?)
}
