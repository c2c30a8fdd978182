//! virtio-blk (virtio 1.2, 5.2).
//!
//! [`create`] makes a device in two halves: the function to put on the PCI bus, and
//! [`BlkWorkerParts`], which are sent to the device thread and become a [`BlkWorker`] there.
//! The worker is a subscriber of that thread's event loop: kicks make it fetch requests, and a
//! request that ends is returned to the ring at once, or at the end of the turn that started it.

pub(crate) mod front;
pub(crate) mod layout;
mod request;
pub(crate) mod service;
mod worker;

use std::sync::{Arc, Mutex};

use strata_block::disk::DiskInfo;
use strata_exec::inbox;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use self::front::BlkFront;
pub use self::worker::{BlkWorker, BlkWorkerParts};
use super::{PciSeat, SetupError, VirtioPci, state::DeviceState, transport::MAX_QUEUES};
use crate::pci::SharedPciDevice;

/// Entries in each ring: what the driver may have in flight per queue.
pub(crate) const QUEUE_SIZE: u16 = 256;

/// A virtio-blk device for the disk that `info` describes, with `queues` request queues (1 to 64),
/// serving a guest whose memory is `memory`.
///
/// # Errors
/// The host has no vectors or eventfds left, or the PCI window no room.
pub fn create(
    info: &DiskInfo,
    queues: u16,
    memory: Arc<GuestMemoryMmap>,
    seat: PciSeat<'_>,
) -> Result<(SharedPciDevice, BlkWorkerParts), SetupError> {
    let queues = queues.clamp(1, MAX_QUEUES);
    let state = DeviceState::new(seat.host.as_ref(), Arc::clone(&seat.line), queues)?;
    let kicks = (0..queues)
        .map(|_| EventFd::new(EFD_NONBLOCK))
        .collect::<Result<Vec<_>, _>>()?;
    let worker_kicks = kicks
        .iter()
        .map(EventFd::try_clone)
        .collect::<Result<Vec<_>, _>>()?;
    let (sender, inbox) = inbox::channel()?;
    let front = BlkFront::new(info, queues, sender);
    let parts = BlkWorkerParts {
        memory,
        state: Arc::clone(&state),
        shared: front.shared(),
        inbox,
        kicks: worker_kicks,
    };
    let function = VirtioPci::new(Box::new(front), state, kicks, seat)?;
    Ok((Arc::new(Mutex::new(function)), parts))
}

#[cfg(test)]
mod tests;
