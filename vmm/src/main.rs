//! `strata`: boots guests on layered disks, and serves such disks to others.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]

use std::{
    env,
    error::Error,
    fs::File,
    io::{self, IsTerminal},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use clap::{CommandFactory, Parser, error::ErrorKind};
use strata_storage::{outlive_size_limit, raise_descriptor_limit};
use strata_vmm::{
    cli::{
        Cli, Command, RunArgs,
        ctl::{CtlArgs, mark_socket},
        report::ReportArgs,
        test::TestArgs,
    },
    ctl, doctor, guest_command,
    machine::{self, Transcript},
    run_result::{FAILED, RunResult},
    serve,
};
use tracing_subscriber::{EnvFilter, fmt::format::FmtSpan};

fn main() -> ExitCode {
    let begin = Instant::now();
    let cli = Cli::parse_from(mark_socket(env::args_os().collect()));
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
        Command::Ctl(args) => return ctl(&args),
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

/// `strata ctl`.
fn ctl(args: &CtlArgs) -> ExitCode {
    match ctl::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("strata: {error}");
            ExitCode::from(error.exit_status())
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
    let name = boots(args);
    with_report(&args.report, ("strata run", &name), run)
}

/// What boots: the kernel's file, or that of the first disk.
fn boots(args: &RunArgs) -> String {
    let disk = args.disks.first().map(|disk| disk.file.as_path());
    let file = args.kernel.as_deref().or(disk).and_then(Path::file_name);
    file.unwrap_or_default().to_string_lossy().into_owned()
}

/// `strata test`.
fn test(args: &TestArgs, begin: Instant) -> ExitCode {
    let words: Vec<_> = args
        .command
        .iter()
        .map(|word| word.to_string_lossy())
        .collect();
    let name = words.join(" ");
    with_report(&args.report, ("strata test", &name), || {
        guest_command::run(args, begin)
    })
}

/// Says what came of a run, also in the files that are wanted.
fn with_report(args: &ReportArgs, name: (&str, &str), run: impl FnOnce() -> RunResult) -> ExitCode {
    let written = write_report(args, name, run);
    written.unwrap_or_else(
        |NotWritten {
             option,
             path,
             error,
         }| {
            let path = path.display();
            eprintln!("strata: could not write {option} {path}: {error}");
            ExitCode::from(FAILED)
        },
    )
}

/// A file that could not be written.
struct NotWritten {
    option: &'static str,
    path: PathBuf,
    error: io::Error,
}

/// Names the file in an error.
fn failed(option: &'static str, path: &Path) -> impl Fn(io::Error) -> NotWritten {
    move |error| NotWritten {
        option,
        path: path.to_owned(),
        error,
    }
}

/// Makes, or empties, a file that is wanted.
fn create<'a>(
    option: &'static str,
    path: Option<&'a Path>,
) -> Result<Option<(&'a Path, File)>, NotWritten> {
    path.map(|path| Ok((path, File::create(path).map_err(failed(option, path))?)))
        .transpose()
}

/// The files; `name` is that of the test's suite, and its own.
fn write_report(
    args: &ReportArgs,
    (suite, name): (&str, &str),
    run: impl FnOnce() -> RunResult,
) -> Result<ExitCode, NotWritten> {
    // Before the guest runs: nobody wants to learn of a mistyped directory after an hour.
    let result_file = create("--result", args.result.as_deref())?;
    let junit_file = create("--result-junit", args.result_junit.as_deref())?;
    if let Some(core) = &args.core {
        core.prepare().map_err(failed("--core", &core.path))?;
    }
    let result = run();
    eprint!("{}", result.for_people());
    if let Some((path, file)) = result_file {
        result.write(&file).map_err(failed("--result", path))?;
    }
    if let Some((path, file)) = junit_file {
        let written = result.write_junit(suite, name, &file);
        written.map_err(failed("--result-junit", path))?;
    }
    Ok(ExitCode::from(result.exit_status))
}
