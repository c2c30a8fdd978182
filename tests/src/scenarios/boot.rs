//! The least that must work: a guest on two raw disks.

use super::layers::{self, Disks, History};
use crate::error::Outcome;
use crate::fixture::Fixture;

/// Runs it.
pub fn test(fixture: &mut Fixture) -> Outcome<()> {
    let disks = Disks::create(fixture, "raw")?;
    let mut history = History::default();
    fixture.say(
        "boot",
        "virtio0 = A (256 MiB, raw), ide0-hd0 = old-path/disk.img (128 MiB, raw)",
    );
    let mut machine = disks.start_writing(fixture, "first", fixture.seed, &history)?;
    fixture.verified("boot", "stock Debian kernel, virtio-blk and ata_piix disks");
    layers::fill_layer(&mut machine, &disks.virtio.0)?;
    layers::fill_layer(&mut machine, &disks.ide.0)?;
    fixture.say("guest", "has written to both disks");
    layers::power_off(fixture, &mut machine)?;
    history.add(fixture.seed, &machine.serial);

    fixture.say("boot", "again, to verify every block");
    disks.verify_after_power_off(fixture, &history)
}
