//! The clock that KVM gives its guests (`kvmclock`), which stands while they do.
//!
//! A guest that uses it does not see the time for which it was stopped: its watchdogs and time-outs
//! stay calm, however long that was, and its time of day is behind afterwards until it asks the
//! RTC or the network. As with QEMU, the time stamp counter and the RTC go on; so does the PM
//! timer, because guests watch the one by the other.

use kvm_bindings::kvm_clock_data;
use kvm_ioctls::VmFd;

/// What the clock shows while vCPUs are parked.
#[derive(Debug, Default)]
pub struct StoppedClock(Option<kvm_clock_data>);

impl StoppedClock {
    /// Notes what it shows, unless it stands already. Without it a guest only sees time pass.
    pub fn stop(&mut self, vm: &VmFd) {
        if self.0.is_some() {
            return;
        }
        match vm.get_clock() {
            Ok(clock) => {
                self.0 = Some(kvm_clock_data {
                    clock: clock.clock,
                    ..Default::default()
                });
            }
            Err(error) => tracing::warn!(%error, "the guest's clock cannot be stopped"),
        }
    }

    /// Lets it go on from there. vCPUs are about to run.
    pub fn go_on(&mut self, vm: &VmFd) {
        if let Some(clock) = self.0.take()
            && let Err(error) = vm.set_clock(&clock)
        {
            tracing::warn!(%error, "the guest's clock cannot be set");
        }
    }
}
