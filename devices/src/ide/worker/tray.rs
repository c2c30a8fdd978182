//! The trays of CD drives, for those who change discs.

use std::{
    rc::Rc,
    sync::{Arc, Mutex},
};

use strata_block::disk::Tray;

use super::{Channel, IdeWorker, SECTOR, TraySink, lock};

/// A CD drive's tray.
struct CdTray {
    channel: Arc<Mutex<Channel>>,
    /// The drive, 0 or 1.
    drive: usize,
}

impl IdeWorker {
    /// The tray of the drive at `place` (0 to 3), if that is a CD drive.
    pub fn tray(&self, place: usize) -> Option<Rc<dyn Tray>> {
        let (channel, drive) = (&self.sides[place / 2].channel, place % 2);
        lock(channel).tray(drive)?;
        let channel = Arc::clone(channel);
        Some(Rc::new(CdTray { channel, drive }))
    }

    /// From now on trays that the guest moves are reported to `sink`.
    pub fn report_trays_to(&mut self, sink: TraySink) {
        self.trays = Some(sink);
    }

    /// Reports the trays that have been moved.
    pub(super) fn report_trays(&self) {
        for (at, side) in self.sides.iter().enumerate() {
            let moves = lock(&side.channel).take_tray_moves();
            for (drive, (count, open)) in moves.into_iter().enumerate() {
                for left in (0..count).rev() {
                    if let Some(sink) = &self.trays {
                        sink(2 * at + drive, open == left.is_multiple_of(2));
                    }
                }
            }
        }
    }
}

impl Tray for CdTray {
    fn is_open(&self) -> bool {
        let tray = lock(&self.channel).tray(self.drive);
        tray.is_some_and(|(open, _)| open)
    }

    fn is_locked(&self) -> bool {
        let tray = lock(&self.channel).tray(self.drive);
        tray.is_some_and(|(_, locked)| locked)
    }

    fn ask_to_eject(&self, force: bool) {
        lock(&self.channel).ask_to_eject(self.drive, force);
    }

    fn set_open(&self, open: bool) {
        lock(&self.channel).set_tray(self.drive, open);
    }

    fn medium_changed(&self, size: u64) {
        lock(&self.channel).disc_changed(self.drive, size / SECTOR);
    }
}
