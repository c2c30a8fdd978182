//! `strata-scenario`: runs whole-system scenarios; see `ci/testhost` for where.

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};
use strata_tests::error::{Context, Outcome};
use strata_tests::fixture::Fixture;
use strata_tests::scenarios::{SCENARIOS, Scenario};

/// Runs whole-system scenarios and prints what was verified.
#[derive(Parser)]
#[command(after_help = "Example: ci/testhost -- strata-scenario main")]
struct Args {
    /// The scenarios to run, one after the other; `list` shows them
    #[arg(required = true)]
    names: Vec<String>,
    /// Repeat what an earlier run with this seed did
    #[arg(long)]
    seed: Option<u64>,
    /// Directory to work in
    #[arg(long, env = "STRATA_WORK")]
    work: PathBuf,
    /// Directory for logs
    #[arg(long, env = "STRATA_OUT")]
    out: PathBuf,
    /// Directory with vmlinuz and guest.img
    #[arg(long, env = "STRATA_IMAGES")]
    images: PathBuf,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut status = ExitCode::SUCCESS;
    for name in &args.names {
        if let Err(error) = run(name, &args) {
            eprintln!("FAILED {name}: {error}");
            status = ExitCode::FAILURE;
        }
    }
    status
}

fn run(name: &str, args: &Args) -> Outcome<()> {
    if name == "list" {
        for Scenario { name, about, .. } in SCENARIOS {
            println!("{name:<10} {about}");
        }
        return Ok(());
    }
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name);
    let scenario = scenario.context("no such scenario; `list` shows them")?;
    let seed = args.seed.unwrap_or_else(clock_seed);
    println!("{name}: {} (--seed {seed})", scenario.about);
    let mut fixture = Fixture::new(name, seed, &args.work, &args.out, &args.images)?;
    (scenario.test)(&mut fixture)?;
    print!("\n{}PASSED {name}\n", fixture.table());
    Ok(())
}

/// A seed that differs from run to run and is short enough to type.
fn clock_seed() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::from(now.subsec_micros()) + 1
}
