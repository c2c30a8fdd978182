//! Crash simulations: chains on simulated files, guests and a merge at work on them, and a power
//! cut at any moment. What was flushed must be there when the chain is opened again.
//!
//! `STRATA_SEED=17 cargo test -p strata-block sim_tests` runs one seed again; `STRATA_SEEDS=2000`
//! runs as many from 0 on.

mod chain;
mod model;
mod world;

use world::World;

/// Seeds of an ordinary test run.
const SEEDS: u64 = if cfg!(debug_assertions) { 300 } else { 2000 };

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs `scenario` for every seed, and says which one failed.
fn for_seeds(scenario: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let seeds = match number("STRATA_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("STRATA_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        if let Err(panic) = std::panic::catch_unwind(|| scenario(seed)) {
            eprintln!("failed with seed {seed}: STRATA_SEED={seed} runs it again");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn no_crash_loses_what_a_guest_flushed() {
    for_seeds(|seed| {
        let mut world = World::new(seed);
        for _ in 0..3 {
            world.run_guests(false);
            world.crash();
        }
    });
}

#[test]
fn no_crash_during_a_merge_loses_what_a_guest_flushed() {
    for_seeds(|seed| {
        let mut world = World::new(seed);
        for _ in 0..3 {
            world.run_guests(true);
            world.crash();
        }
    });
}

#[test]
fn a_merge_under_load_changes_no_byte() {
    for_seeds(|seed| {
        let mut world = World::new(seed);
        world.run_guests_to_the_end();
        world.verify();
        assert_eq!(world.layers_below_the_top(), world.layers_kept());
    });
}
