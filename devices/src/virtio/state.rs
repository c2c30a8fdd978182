//! What the two halves of a virtio device share.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use bitflags::bitflags;

use super::interrupts::Interrupts;
use crate::host::{IrqLine, PciHost};

bitflags! {
    /// The device status register (virtio 1.2, 2.1).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Status: u8 {
        /// The guest has noticed the device.
        const ACKNOWLEDGE = 1;
        /// The guest has a driver for it.
        const DRIVER = 2;
        /// The driver is set up: rings may be served.
        const DRIVER_OK = 4;
        /// Negotiation of features is complete.
        const FEATURES_OK = 8;
        /// The device has met an error that it cannot recover from.
        const NEEDS_RESET = 64;
        /// The guest has given up on the device.
        const FAILED = 128;
    }
}

/// Status, interrupts and the bus master bit of one device; one `Arc` in each half.
pub(crate) struct DeviceState {
    status: AtomicU8,
    generation: AtomicU8,
    bus_master: AtomicBool,
    pub(super) interrupts: Interrupts,
}

impl DeviceState {
    /// The state of a device with `queues` queues after power-on.
    ///
    /// # Errors
    /// The host's error if it has no vectors left.
    pub(super) fn new(
        host: &dyn PciHost,
        line: Arc<dyn IrqLine>,
        queues: u16,
    ) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            status: AtomicU8::new(0),
            generation: AtomicU8::new(0),
            bus_master: AtomicBool::new(false),
            interrupts: Interrupts::new(host, line, queues)?,
        }))
    }

    /// The status register.
    pub fn status(&self) -> Status {
        Status::from_bits_retain(self.status.load(Ordering::Acquire))
    }

    /// The driver writes the status register with something other than 0. What the device said
    /// about itself stays.
    pub(super) fn set_status(&self, status: Status) {
        let bits = (status - Status::NEEDS_RESET).bits();
        // The closure always gives a value, so the update cannot fail.
        let _ = self
            .status
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
                Some(bits | old & Status::NEEDS_RESET.bits())
            });
    }

    /// A reset is complete: nothing is in flight and no ring will be touched (2.4).
    pub fn reset_done(&self) {
        self.status.store(0, Ordering::Release);
    }

    /// The driver has broken the rules in a way that leaves nothing to go on with (2.1.2).
    pub(crate) fn needs_reset(&self) {
        let bit = Status::NEEDS_RESET.bits();
        if self.status.fetch_or(bit, Ordering::AcqRel) & bit == 0 {
            self.interrupts.signal_config();
        }
    }

    /// Device configuration has changed: the driver is notified, so that it reads it again
    /// (4.1.4.3.1).
    pub(crate) fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.interrupts.signal_config();
    }

    /// Counts changes of device configuration.
    pub(super) fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    /// Whether the device may touch guest memory.
    pub fn bus_master(&self) -> bool {
        self.bus_master.load(Ordering::Acquire)
    }

    /// Follows the command register; whether bus mastering has just been turned on.
    pub(super) fn set_bus_master(&self, on: bool) -> bool {
        !self.bus_master.swap(on, Ordering::AcqRel) && on
    }

    /// Notifies the driver that queue `index` has used buffers.
    pub(crate) fn signal_queue(&self, index: u16) {
        self.interrupts.signal_queue(index);
    }
}
