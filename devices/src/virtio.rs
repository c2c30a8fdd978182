//! virtio 1.2: the modern PCI transport (section 4.1) and the devices behind it.
//!
//! [`VirtioPci`] is the front half, common to all devices: registers, negotiation, interrupts,
//! doorbells. What is particular to a device is a [`VirtioDevice`]. Rings are not touched here:
//! when the driver is ready, their addresses go to the worker half on the device thread, which
//! makes [`ring::Ring`]s of them.
//!
//! The halves share a [`state::DeviceState`]: the status register, which the worker may set to
//! "needs reset" and which reads 0 after a reset only once the worker has drained; and the
//! interrupts. Everything else travels as messages.

pub mod blk;
mod chain;
mod common;
mod doorbells;
mod interrupts;
pub(crate) mod ring;
pub(crate) mod state;
mod transport;

pub(crate) use transport::VirtioPci;
pub use transport::{PciSeat, SetupError};
use virtio_queue::QueueState;

/// The particular part of a virtio device's front half. Called on vCPU threads, so it does no
/// disk I/O and does not wait for the worker.
pub(crate) trait VirtioDevice: Send {
    /// Device type (virtio 1.2, section 5).
    fn device_type(&self) -> u16;
    /// PCI class code: base class, subclass, programming interface.
    fn class_code(&self) -> u32;
    /// Feature bits that are offered, those of the transport and of rings included.
    fn features(&self) -> u64;
    /// The largest size of each queue, a power of two.
    fn queue_sizes(&self) -> Vec<u16>;
    /// The driver reads device configuration at `offset`; `data` comes filled with zeroes.
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// The driver writes device configuration; `features` are the ones it has accepted so far.
    fn write_config(&mut self, features: u64, offset: u64, data: &[u8]);
    /// The driver is ready: serve `queues` (none where the driver has not enabled one). Their
    /// addresses are as the guest wrote them, unchecked.
    fn activate(&mut self, features: u64, queues: Vec<Option<QueueState>>);
    /// Stop serving, finish what is in flight, then call [`state::DeviceState::reset_done`].
    fn reset(&mut self);
    /// Bus mastering has been turned on again: look at the rings.
    fn wake(&mut self);
}
