//! Crash simulations: a disk on simulated files, guests and an operator at work on it, or a tool
//! that commits or takes internal snapshots, and a power cut at any moment. What was flushed must
//! be there when the chain is opened again.
//!
//! A failure says which seed it was and how to run that again. `STRATA_SEEDS=2000` runs as many of
//! every test, from `STRATA_FIRST_SEED` (or 0) on.
#![cfg(test)] // Nothing but tests: so no other build gets simulated files by way of this crate.

mod guest;
mod journal;
mod killed;
mod model;
mod operator;
mod oracle;
mod pair;
mod plan;
mod world;
mod worlds;

use world::World;

/// Seeds of an ordinary run of each test.
const SEEDS: u64 = if cfg!(debug_assertions) { 40 } else { 290 };

/// Of so many seeds one has QEMU's tools look at what each crash leaves, unless
/// `STRATA_SEEDS_PER_QEMU` says another number: they are slow.
const SEEDS_PER_QEMU: u64 = 20;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs `scenario` for every seed, and says which one failed.
fn for_seeds(scenario: impl Fn(&mut World) + std::panic::RefUnwindSafe) {
    for_seeds_of(World::new, scenario);
}

/// The same, for whatever a seed and whether QEMU's tools look on make.
fn for_seeds_of<W>(
    new: impl Fn(u64, bool) -> W + std::panic::RefUnwindSafe,
    scenario: impl Fn(&mut W) + std::panic::RefUnwindSafe,
) {
    let first = number("STRATA_FIRST_SEED").unwrap_or(0);
    let seeds = match number("STRATA_SEED") {
        Some(seed) => seed..seed + 1,
        None => first..first + number("STRATA_SEEDS").unwrap_or(SEEDS),
    };
    let per_qemu = number("STRATA_SEEDS_PER_QEMU").unwrap_or(SEEDS_PER_QEMU);
    for seed in seeds {
        let with_qemu = seed.is_multiple_of(per_qemu);
        let run = || scenario(&mut new(seed, with_qemu));
        if let Err(panic) = std::panic::catch_unwind(run) {
            let thread = std::thread::current();
            let test = thread.name().unwrap_or("worlds").to_owned();
            eprintln!(
                "failed with seed {seed}; to run it again: STRATA_SEED={seed} \
                 STRATA_SEEDS_PER_QEMU={per_qemu} cargo nextest run --release -p strata-sim {test}"
            );
            std::panic::resume_unwind(panic);
        }
    }
}
