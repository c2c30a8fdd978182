//! What devices need from the machine around them. `vmm` implements these over KVM; tests have
//! doubles.

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// A wire into the interrupt controllers (a GSI: ISA IRQ 0 to 15, or a PCI pin).
pub trait IrqLine: Send + Sync {
    /// Sets the level. A level-triggered source holds it until the guest has served it.
    fn set(&self, high: bool);
    /// Raises and lowers it: an edge, as ISA devices make.
    fn pulse(&self) {
        self.set(true);
        self.set(false);
    }
}

/// An address and a value to write there: a message-signalled interrupt (PCI 3.0, 6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MsiMessage {
    /// Message address.
    pub address: u64,
    /// Message data.
    pub data: u32,
}

/// One vector that can be sent by writing to an eventfd (an irqfd), on any thread.
pub trait MsiVector: Send + Sync {
    /// Where a signal goes from now on; `None` while the vector is masked (signals are not
    /// delivered).
    ///
    /// # Errors
    /// The host's error if the route cannot be set.
    fn route(&self, message: Option<MsiMessage>) -> io::Result<()>;
    /// The eventfd to signal.
    fn eventfd(&self) -> &EventFd;
}

/// Hands out what a PCI device needs from the hypervisor.
pub trait PciHost: Send + Sync {
    /// A new, masked vector.
    ///
    /// # Errors
    /// The host's error, or that no vector is left.
    fn new_vector(&self) -> io::Result<Box<dyn MsiVector>>;
    /// From now on a guest write to the MMIO `address` (of any length) signals `doorbell` and does
    /// not reach the bus.
    ///
    /// # Errors
    /// The host's error.
    fn attach_doorbell(&self, address: u64, doorbell: &EventFd) -> io::Result<()>;
    /// Undoes [`PciHost::attach_doorbell`].
    ///
    /// # Errors
    /// The host's error.
    fn detach_doorbell(&self, address: u64, doorbell: &EventFd) -> io::Result<()>;
}
