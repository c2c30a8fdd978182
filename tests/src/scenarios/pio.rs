//! IDE without DMA: every sector through the data port.

use super::layers::{self, Disks, History};
use crate::error::{Outcome, ensure};
use crate::stage::Stage;
use std::time::Duration;

/// Plays it.
pub fn play(stage: &mut Stage) -> Outcome<()> {
    let mut disks = Disks::create(stage, "qcow2")?;
    disks.kernel = vec!["libata.dma=0".to_owned()];
    let mut history = History::default();
    stage.say("boot", "with libata.dma=0");
    let mut machine = disks.start_writing(stage, "first", stage.seed, &history)?;
    layers::work_quietly(&mut machine, Duration::from_secs(10))?;
    layers::power_off(stage, &mut machine)?;
    let sda = |sample: &crate::serial::IoSample| sample.disks[1].requests;
    let requests: u64 = machine.serial.io.iter().map(sda).sum();
    ensure(requests > 0, || "the IDE disk has not been used".to_owned())?;
    history.add(stage.seed, &machine.serial);

    // With DMA again: what one way wrote, the other reads.
    disks.kernel.clear();
    stage.say("boot", "with DMA, to verify every block");
    let verified = disks.verify(stage, "second", &history)?;
    ensure(verified.acknowledged > 0, || {
        "nothing was verified".to_owned()
    })?;
    let checked = layers::mib((verified.acknowledged + verified.newer) << 12);
    stage.verified(
        "IDE PIO",
        format!("{requests} requests; {checked} read back by DMA"),
    );
    Ok(())
}
