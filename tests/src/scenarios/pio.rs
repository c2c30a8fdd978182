//! IDE without DMA: every sector through the data port.

use super::layers::{self, Disks, History};
use crate::error::{Outcome, ensure};
use crate::fixture::Fixture;
use std::time::Duration;

/// Runs it.
pub fn test(fixture: &mut Fixture) -> Outcome<()> {
    let mut disks = Disks::create(fixture, "qcow2")?;
    disks.kernel = vec!["libata.dma=0".to_owned()];
    let mut history = History::default();
    fixture.say("boot", "with libata.dma=0");
    let mut machine = disks.start_writing(fixture, "first", fixture.seed, &history)?;
    layers::work_quietly(&mut machine, Duration::from_secs(6))?;
    layers::power_off(fixture, &mut machine)?;
    let sda = |sample: &crate::serial::IoSample| sample.disks[1].requests;
    let requests: u64 = machine.serial.io.iter().map(sda).sum();
    ensure(requests > 0, || "the IDE disk has not been used".to_owned())?;
    history.add(fixture.seed, &machine.serial);

    // With DMA again: what one way wrote, the other reads.
    disks.kernel.clear();
    fixture.say("boot", "with DMA, to verify every block");
    let verified = disks.verify(fixture, "second", &history)?;
    ensure(verified.acknowledged > 0, || {
        "nothing was verified".to_owned()
    })?;
    let checked = layers::mib((verified.acknowledged + verified.newer) << 12);
    fixture.verified(
        "IDE PIO",
        format!("{requests} requests; {checked} read back by DMA"),
    );
    Ok(())
}
