//! Doorbells: an eventfd per queue that a guest's notification signals without leaving the kernel.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::host::PciHost;

/// Bytes from one queue's notification address to the next: `notify_off_multiplier`.
pub const STRIDE: u64 = 4;

/// The doorbells of one device.
pub struct Doorbells {
    host: Arc<dyn PciHost>,
    kicks: Vec<EventFd>,
    /// Where each doorbell is attached.
    attached: Vec<Option<u64>>,
}

impl Doorbells {
    /// Doorbells that signal `kicks`, one per queue, attached nowhere.
    pub fn new(host: Arc<dyn PciHost>, kicks: Vec<EventFd>) -> Self {
        let attached = vec![None; kicks.len()];
        Self {
            host,
            kicks,
            attached,
        }
    }

    /// Attaches all doorbells from `base` on, or detaches them.
    ///
    /// One that the host does not take is rung by [`Doorbells::ring`] instead, when the write
    /// arrives on the bus: slower, and nothing is lost.
    pub fn move_to(&mut self, base: Option<u64>) {
        let addresses = (0..).map(|queue: u64| base?.checked_add(queue * STRIDE));
        for ((kick, attached), wanted) in self.kicks.iter().zip(&mut self.attached).zip(addresses) {
            if *attached == wanted {
                continue;
            }
            if let Some(address) = attached.take()
                && let Err(error) = self.host.detach_doorbell(address, kick)
            {
                tracing::warn!(%error, "a doorbell could not be detached");
            }
            if let Some(address) = wanted {
                match self.host.attach_doorbell(address, kick) {
                    Ok(()) => *attached = wanted,
                    Err(error) => tracing::debug!(%error, address, "doorbell left to the bus"),
                }
            }
        }
    }

    /// Rings the doorbell of `queue`; a queue that does not exist has none.
    pub fn ring(&self, queue: u64) {
        let kick = usize::try_from(queue).ok().and_then(|q| self.kicks.get(q));
        if let Some(kick) = kick
            && let Err(error) = kick.write(1)
        {
            tracing::warn!(%error, "a doorbell could not be rung");
        }
    }
}

impl Drop for Doorbells {
    fn drop(&mut self) {
        self.move_to(None);
    }
}
