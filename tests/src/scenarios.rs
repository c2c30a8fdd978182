//! The scenarios, and what several of them share.

use crate::error::Outcome;
use crate::fixture::Fixture;

mod bad_input;
mod boot;
mod both_disks;
mod command;
mod commit;
mod control;
mod drives;
mod firmware;
mod host;
mod hotplug;
mod intx;
mod judgement;
mod kill;
mod layers;
mod main_job;
mod no_room;
mod outcome;
mod pio;
mod platform;
mod recipes;
mod vhost_user;

/// A whole-system test.
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows, in one line.
    pub about: &'static str,
    /// Runs it.
    pub test: fn(&mut Fixture) -> Outcome<()>,
}

/// All scenarios.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "boot",
        about: "a guest writes to two raw disks, powers off, and finds all again",
        test: boot::test,
    },
    Scenario {
        name: "main",
        about: "snapshot, merge and move the disks of a guest that keeps writing",
        test: main_job::test,
    },
    Scenario {
        name: "kill",
        about: "SIGKILL in the middle of a merge, and right after its completion",
        test: kill::test,
    },
    Scenario {
        name: "control",
        about: "the monitor at work on a running guest: stop, hold, cancel, no room, end, reset",
        test: control::test,
    },
    Scenario {
        name: "outcome",
        about: "how a run ended: codes, panics, resets, time-outs, and how they are reported",
        test: outcome::test,
    },
    Scenario {
        name: "command",
        about: "strata test: commands in guests, their streams, exit status and results",
        test: command::test,
    },
    Scenario {
        name: "platform",
        about: "what a guest finds besides its disks: the clock, and the ways to start again",
        test: platform::test,
    },
    Scenario {
        name: "drives",
        about: "how disks and a CD drive identify themselves, to programs made for real ones",
        test: drives::test,
    },
    Scenario {
        name: "judgement",
        about: "fio, file systems, RAID and LVM on disks that are snapshotted, merged and resized",
        test: judgement::test,
    },
    Scenario {
        name: "judgement-long",
        about: "the same ten times, with resets by the guest in between",
        test: judgement::test_long,
    },
    Scenario {
        name: "recipes",
        about: "the recipes of the documents, run as they stand there",
        test: recipes::test,
    },
    Scenario {
        name: "pio",
        about: "an IDE disk driven without DMA",
        test: pio::test,
    },
    Scenario {
        name: "intx",
        about: "a guest with two processors and no message-signalled interrupts",
        test: intx::test,
    },
    Scenario {
        name: "firmware",
        about: "disks that boot by themselves: SeaBIOS and GRUB, by virtio and IDE",
        test: firmware::test,
    },
    Scenario {
        name: "hotplug",
        about: "a disk that comes into a running guest, goes, and comes again",
        test: hotplug::test,
    },
    Scenario {
        name: "host",
        about: "hosts that cannot run a guest: no /dev/kvm, and no right to use it",
        test: host::test,
    },
    Scenario {
        name: "bad-input",
        about: "what is refused: one clear line, and nothing changed",
        test: bad_input::test,
    },
    Scenario {
        name: "vhost-user",
        about: "QEMU's guest on a disk of strata serve: a merge, kills, and nothing lost",
        test: vhost_user::test,
    },
];
