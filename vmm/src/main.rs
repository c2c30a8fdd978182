//! `strata`: boots guests on layered disks, and serves such disks to others.

use std::{
    error::Error,
    fs::File,
    io::{self, IsTerminal},
    path::Path,
    process::ExitCode,
    time::Instant,
};

use clap::{CommandFactory, Parser, error::ErrorKind};
use strata_storage::{outlive_size_limit, raise_descriptor_limit};
use strata_vmm::{
    cli::{Cli, Command, RunArgs, test::TestArgs},
    doctor, guest_command,
    machine::{self, Transcript},
    run_result::{FAILED, RunResult},
    serve,
};
use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};

fn main() -> ExitCode {
    let begin = Instant::now();
    let cli = Cli::parse();
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        // Spans are off unless they are asked for: who asks wants to see when each begins and ends.
        .with_span_events(FmtSpan::NEW | FmtSpan::CLOSE)
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
        Command::Test(args) => return test(&args, begin),
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
    let transcript = Transcript::default();
    let run = || {
        let ended = machine::run(args, &serial, &transcript, begin);
        RunResult::new(args.kernel.as_deref(), ended, &transcript, begin)
    };
    with_result(args.ending.result.as_deref(), run)
}

/// `strata test`.
fn test(args: &TestArgs, begin: Instant) -> ExitCode {
    with_result(args.result.as_deref(), || guest_command::run(args, begin))
}

/// Says what came of a run, also in the file that is wanted.
fn with_result(path: Option<&Path>, run: impl FnOnce() -> RunResult) -> ExitCode {
    // Before the guest runs: nobody wants to learn of a mistyped directory after an hour.
    let file = match path.map(|path| File::create(path).map(|file| (path, file))) {
        None => None,
        Some(Ok(file)) => Some(file),
        Some(Err(error)) => return not_written(path.unwrap_or("".as_ref()), &error),
    };
    let result = run();
    eprint!("{}", result.for_people());
    match file.map(|(path, file)| (path, result.write(&file))) {
        Some((path, Err(error))) => not_written(path, &error),
        _ => ExitCode::from(result.exit_status),
    }
}

fn not_written(path: &Path, error: &io::Error) -> ExitCode {
    eprintln!(
        "strata: could not write --result {}: {error}",
        path.display()
    );
    ExitCode::from(FAILED)
}
