//! Discs that are changed from outside, while the guest may be reading them.

use super::{Channel, Payload, Pending, Phase, Session, Work};
use crate::ide::{bus_master::TableEnd, cdrom::Cdrom, drive::Drive};

impl Channel {
    /// Whether the tray of the CD drive `at` is open, and whether the guest has locked it.
    pub fn tray(&self, at: usize) -> Option<(bool, bool)> {
        let cdrom = self.drives[at].as_ref()?.cdrom.as_ref()?;
        Some((cdrom.is_open(), cdrom.is_locked()))
    }

    /// Opens or closes the tray of the CD drive `at`.
    pub fn set_tray(&mut self, at: usize, open: bool) {
        self.with_cdrom(at, |cdrom, blocks| cdrom.set_tray(open, blocks));
    }

    /// Presses the button of the CD drive `at`; with `force` the guest's lock is undone.
    pub fn ask_to_eject(&mut self, at: usize, force: bool) {
        self.with_cdrom(at, |cdrom, _| cdrom.ask_to_eject(force));
    }

    /// The CD drive `at` has another disc now, of so many sectors. What the guest has begun to read
    /// from the last one fails where it is not under way.
    pub fn disc_changed(&mut self, at: usize, sectors: u64) {
        if let Some(drive) = &mut self.drives[at] {
            drive.sectors = sectors;
        }
        self.with_cdrom(at, |cdrom, _| cdrom.disc_changed());
        let waits = self.job.as_ref().is_some_and(|job| {
            let payload = |payload: &Payload| matches!(payload, Payload::Disc { .. });
            job.drive == at
                && match &job.work {
                    Work::ReadDisc { .. } => true,
                    Work::PacketDma { payload: what, .. } => payload(what),
                    _ => false,
                }
        });
        if waits && let Phase::Busy(Pending::Packet(session)) = &self.phase {
            let session = session.clone();
            self.job = None;
            self.fail_without_disc(&session);
        }
    }

    /// How often the guest has moved the trays of the drives, as [`Cdrom::take_moves`] counts, and
    /// whether they are open now.
    pub fn take_tray_moves(&mut self) -> [(u8, bool); 2] {
        self.drives.each_mut().map(|drive| {
            let cdrom = drive.as_mut().and_then(|drive| drive.cdrom.as_mut());
            cdrom.map_or((0, false), |cdrom| (cdrom.take_moves(), cdrom.is_open()))
        })
    }

    /// Whether the disc that `session` reads is not in the drive any more.
    pub(super) fn has_lost_its_disc(&self, session: &Session) -> bool {
        let cdrom = self.drives[self.active]
            .as_ref()
            .and_then(|drive| drive.cdrom.as_ref());
        cdrom.is_none_or(|cdrom| cdrom.disc() != session.disc())
    }

    /// Ends a command whose disc is gone.
    pub(super) fn fail_without_disc(&mut self, session: &Session) {
        if session.by_dma() {
            self.bus_master.moved(TableEnd::Short);
        }
        let sense = self.drives[self.active].as_ref().and_then(|drive| {
            let cdrom = drive.cdrom.as_ref()?;
            Some(cdrom.disc_is_gone(drive.blocks()))
        });
        if let Some(sense) = sense {
            self.check_condition(sense);
        }
    }

    fn with_cdrom(&mut self, at: usize, change: impl FnOnce(&mut Cdrom, u32)) {
        let blocks = self.drives[at].as_ref().map_or(0, Drive::blocks);
        let cdrom = self.drives[at]
            .as_mut()
            .and_then(|drive| drive.cdrom.as_mut());
        if let Some(cdrom) = cdrom {
            change(cdrom, blocks);
        }
    }
}
