//! `strata-bench`: measures Strata beside QEMU's programs, on the same images, in turns, and
//! verifies what each has made. `ci/bench` installs what it needs and runs it.

mod chain;
mod model;
mod nbd;
mod report;
mod rows;
mod side;

use clap::Parser;
use report::{Measure, Plot, Result};
use rows::ROWS;
use side::Side;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;
use strata_tests::error::{Context, Outcome, ensure};

/// Measures Strata beside QEMU's programs
#[derive(Parser)]
#[command(
    name = "ci/bench",
    after_help = "Example: ci/bench --pairs 3 flatten-warm"
)]
struct Args {
    /// The rows to measure; all if none is given
    names: Vec<String>,
    /// Show the rows, and measure nothing
    #[arg(long)]
    list: bool,
    /// Runs of each side; the sides take turns, and the first of a pair is the other one each time
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// Directory for results: bench.json, bench.html, table.md
    #[arg(long, env = "STRATA_BENCH_OUT", default_value = "bench-results")]
    out: PathBuf,
    /// Directory for images, about 5 GiB, on the file system that is to be measured
    #[arg(long, default_value = "/var/tmp")]
    work: PathBuf,
}

/// What a row works with.
pub struct Bench {
    /// Where its images may lie.
    pub directory: PathBuf,
    pairs: u32,
    /// Shown on the page.
    pub plots: Vec<Plot>,
}

impl Bench {
    /// Has both sides measure something, as often as wanted and in turns: ABBAABB...
    fn turns<const N: usize>(
        &self,
        mut measures: [Measure; N],
        mut run: impl FnMut(Side) -> Outcome<[f64; N]>,
    ) -> Outcome<Vec<Measure>> {
        for pair in 0..self.pairs {
            let mut order = [Side::Strata, Side::Qemu];
            if pair % 2 == 1 {
                order.reverse();
            }
            for side in order {
                let values = run(side)?;
                for (measure, value) in measures.iter_mut().zip(values) {
                    measure.values(side).push(value);
                }
            }
        }
        Ok(measures.into())
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Outcome<()> {
    if args.list {
        for row in ROWS {
            println!("{:<20} {}", row.name, row.about);
        }
        return Ok(());
    }
    for name in &args.names {
        ensure(ROWS.iter().any(|row| row.name == name), || {
            format!("no row is called '{name}': ci/bench --list shows them")
        })?;
    }
    fs::create_dir_all(&args.out).context(args.out.display())?;
    let mut results = Vec::new();
    let mut plots = Vec::new();
    let mut failed = Vec::new();
    for row in ROWS {
        if !args.names.is_empty() && !args.names.iter().any(|name| name == row.name) {
            continue;
        }
        let begin = Instant::now();
        let directory = tempfile::tempdir_in(&args.work).context(args.work.display())?;
        let mut bench = Bench {
            directory: directory.path().to_owned(),
            pairs: args.pairs,
            plots: Vec::new(),
        };
        println!("{}: {}", row.name, row.about);
        match (row.run)(&mut bench) {
            Ok(measures) => {
                for measure in &measures {
                    println!("    {}", measure.line());
                }
                println!("    verified; {:.0} s", begin.elapsed().as_secs_f64());
                results.push(Result {
                    name: row.name,
                    about: row.about,
                    measures,
                });
                plots.append(&mut bench.plots);
            }
            Err(error) => {
                println!("    FAILED: {error}");
                failed.push(row.name);
            }
        }
        write(&args.out, args.pairs, &results, &plots)?;
    }
    println!("results: {}", args.out.display());
    ensure(failed.is_empty(), || {
        format!("failed: {}", failed.join(" "))
    })
}

fn write(out: &Path, pairs: u32, results: &[Result], plots: &[Plot]) -> Outcome<()> {
    let place = report::place();
    let files = [
        ("bench.json", report::json(&place, pairs, results)),
        ("table.md", report::markdown(&place, pairs, results)),
        ("bench.html", report::html(&place, pairs, results, plots)),
    ];
    for (name, text) in files {
        let path = out.join(name);
        fs::write(&path, text).context(path.display())?;
    }
    Ok(())
}
