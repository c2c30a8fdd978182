//! The interrupts that a guest falls back to: its disks' PCI pins, through the I/O APIC and through
//! the 8259s.

use super::layers::{self, Disks, History};
use crate::error::Outcome;
use crate::fixture::Fixture;

/// Runs it.
pub fn test(fixture: &mut Fixture) -> Outcome<()> {
    let mut disks = Disks::create(fixture, "raw")?;
    disks.kernel.push("pci=nomsi".to_owned());
    disks.options = ["--cpus", "2"].map(str::to_owned).to_vec();
    let mut history = History::default();
    fixture.say("boot", "two processors, pci=nomsi");
    let mut machine = disks.start_writing(fixture, "intx", fixture.seed, &history)?;
    layers::fill_layer(&mut machine, &disks.virtio.0)?;
    layers::fill_layer(&mut machine, &disks.ide.0)?;
    fixture.say("guest", "has written to both disks");
    layers::power_off(fixture, &mut machine)?;
    history.add(fixture.seed, &machine.serial);
    fixture.verified("pins", "virtio-blk and ata_piix work without MSI");

    fixture.say("boot", "again with noapic, to verify every block");
    disks.kernel.push("noapic".to_owned());
    disks.verify_after_power_off(fixture, &history)
}
