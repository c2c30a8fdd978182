//! What a world goes through.

use super::{for_seeds, for_seeds_of, pair::Pair};

#[test]
fn no_crash_loses_what_a_guest_flushed() {
    for_seeds(|world| {
        for _ in 0..3 {
            world.run(false);
            world.crash();
        }
    });
}

#[test]
fn no_crash_during_snapshots_and_merges_loses_what_a_guest_flushed() {
    for_seeds(|world| {
        for _ in 0..3 {
            world.run(true);
            world.crash();
        }
    });
}

#[test]
fn snapshots_and_merges_under_load_change_no_byte() {
    for_seeds(|world| {
        for _ in 0..2 {
            world.run_to_the_end();
            world.verify();
            world.stop();
        }
    });
}

#[test]
fn no_io_error_harms_what_was_flushed() {
    for_seeds(|world| {
        for _ in 0..3 {
            world.run_with_faults();
            world.crash();
        }
    });
}

#[test]
fn a_full_disk_harms_nothing_and_passes() {
    for_seeds(|world| {
        for _ in 0..3 {
            world.run_on_a_full_disk();
            world.crash();
        }
    });
}

#[test]
fn no_crash_during_a_commit_changes_a_byte() {
    for_seeds(|world| {
        for _ in 0..3 {
            world.run(true);
            world.stop_or_crash();
            world.commit();
        }
    });
}

#[test]
fn no_crash_while_the_top_is_committed_loses_what_a_guest_flushed() {
    for_seeds(|world| {
        for _ in 0..3 {
            world.run_commit_of_top();
            world.crash();
        }
    });
}

#[test]
fn no_crash_harms_an_internal_snapshot() {
    for_seeds(|world| {
        // Mostly on one layer, so that snapshots have something to keep, and to give up.
        for round in 0..4 {
            world.run(round == 2);
            world.stop_or_crash();
            world.change_snapshots();
        }
    });
}

/// Two disks; QEMU's tools need not look at them.
fn for_pairs(scenario: impl Fn(&mut Pair) + std::panic::RefUnwindSafe) {
    for_seeds_of(|seed, _| Pair::new(seed), scenario);
}

#[test]
fn no_crash_parts_disks_that_are_snapshotted_at_one_moment() {
    for_pairs(|pair| {
        for _ in 0..2 {
            pair.snapshot_under_load();
        }
    });
}

#[test]
fn no_crash_parts_disks_that_are_merged_as_one() {
    for_pairs(|pair| {
        for _ in 0..2 {
            pair.grow();
            pair.merge_as_one(false);
        }
    });
}

#[test]
fn no_io_error_harms_disks_that_are_merged_as_one() {
    for_pairs(|pair| {
        for _ in 0..2 {
            pair.grow();
            pair.merge_as_one(true);
        }
    });
}
