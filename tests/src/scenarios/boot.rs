//! The least that must work: a guest on two raw disks.

use super::layers::{self, Disks, History};
use crate::error::Outcome;
use crate::stage::Stage;

/// Plays it.
pub fn play(stage: &mut Stage) -> Outcome<()> {
    let disks = Disks::create(stage, "raw")?;
    let mut history = History::default();
    stage.say(
        "boot",
        "virtio0 = A (256 MiB, raw), ide0-hd0 = old-path/disk.img (128 MiB, raw)",
    );
    let mut machine = disks.start_writing(stage, "first", stage.seed, &history)?;
    stage.verified("boot", "stock Debian kernel, virtio-blk and ata_piix disks");
    layers::fill_layer(&mut machine, &disks.virtio.0)?;
    layers::fill_layer(&mut machine, &disks.ide.0)?;
    stage.say("guest", "has written to both disks");
    layers::power_off(stage, &mut machine)?;
    history.add(stage.seed, &machine.serial);

    stage.say("boot", "again, to verify every block");
    disks.verify_after_power_off(stage, &history)
}
