//! The interrupts that a guest falls back to: its disks' PCI pins, through the I/O APIC and through
//! the 8259s.

use super::layers::{self, Disks, History};
use crate::error::Outcome;
use crate::stage::Stage;

/// Plays it.
pub fn play(stage: &mut Stage) -> Outcome<()> {
    let mut disks = Disks::create(stage, "raw")?;
    disks.kernel.push("pci=nomsi".to_owned());
    disks.options = ["--cpus", "2"].map(str::to_owned).to_vec();
    let mut history = History::default();
    stage.say("boot", "two processors, pci=nomsi");
    let mut machine = disks.start_writing(stage, "intx", stage.seed, &history)?;
    layers::fill_layer(&mut machine, &disks.virtio.0)?;
    layers::fill_layer(&mut machine, &disks.ide.0)?;
    stage.say("guest", "has written to both disks");
    layers::power_off(stage, &mut machine)?;
    history.add(stage.seed, &machine.serial);
    stage.verified("pins", "virtio-blk and ata_piix work without MSI");

    stage.say("boot", "again with noapic, to verify every block");
    disks.kernel.push("noapic".to_owned());
    disks.verify_after_power_off(stage, &history)
}
