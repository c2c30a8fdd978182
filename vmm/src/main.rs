//! `strata`: boots guests on layered disks.

use std::{io, process::ExitCode};

use clap::{CommandFactory, Parser, error::ErrorKind};
use strata_vmm::{
    cli::{Cli, Command},
    doctor, machine,
};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()))
        .init();
    match cli.command {
        Command::Run(args) => {
            let serial = args.serial().unwrap_or_else(|conflict| {
                let kind = ErrorKind::ArgumentConflict;
                Cli::command().error(kind, conflict).exit()
            });
            match machine::run(&args, &serial) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("strata: {error}");
                    ExitCode::FAILURE
                }
            }
        }
        Command::Doctor(args) => match doctor::run(&args.dir) {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        },
    }
}
