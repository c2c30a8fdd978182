//! What one vCPU's thread does.

use std::sync::Arc;

use super::{Buses, Registers, Shared, Want};
use crate::{
    kvm::{
        KvmError, mtrr,
        raw::{self, Exit, Vcpu},
        regs::Entry,
        reset::VcpuState,
    },
    machine::post::{GuestEvent, Post},
};

/// One vCPU and what it needs.
pub(super) struct VcpuThread {
    pub(super) index: u8,
    pub(super) vcpu: Vcpu,
    pub(super) initial: VcpuState,
    pub(super) shared: Arc<Shared>,
    pub(super) buses: Arc<Buses>,
    pub(super) post: Post,
}

/// How much of what its owner asks of parked vCPUs a thread has done.
#[derive(Default)]
struct Seen {
    resets: u64,
    inspections: u64,
}

/// Why a vCPU left the guest.
enum Left {
    /// Somebody wants something else than running.
    Asked,
    /// It has notified the owner, and must not run before the owner has acted.
    Stuck,
}

impl VcpuThread {
    /// Runs and parks as the owner wants, until it is to end.
    pub(super) fn main(mut self) {
        let mut seen = Seen::default();
        while self.parked(&mut seen) == Want::Run {
            // Tells a guest that uses KVM's clock that time has passed without it, so that its
            // watchdogs stay calm. Others refuse, and need not know.
            let _ = self.vcpu.fd.kvmclock_ctrl();
            if let Left::Stuck = self.run() {
                let mut state = self.shared.lock();
                while state.want == Want::Run {
                    state = self.shared.wait(state);
                }
            }
        }
    }

    /// Waits until the owner wants it to run or to end; carries out resets and reports in the
    /// meantime.
    fn parked(&self, seen: &mut Seen) -> Want {
        let mut state = self.shared.lock();
        state.parked += 1;
        self.shared.changed.notify_all();
        loop {
            if seen.resets != state.resets {
                seen.resets = state.resets;
                if let Err(error) = self.reset(state.entry) {
                    state.failure = Some(error);
                }
                state.reset_done += 1;
                self.shared.changed.notify_all();
            }
            if seen.inspections != state.inspections {
                seen.inspections = state.inspections;
                let registers = Registers::read(self.index, &self.vcpu.fd);
                state.registers.push(registers);
                self.shared.changed.notify_all();
            }
            match state.want {
                Want::Park => state = self.shared.wait(state),
                want => {
                    state.parked -= 1;
                    return want;
                }
            }
        }
    }

    /// Back to the state after power-on; vCPU 0 starts at `entry`, the others wait for it.
    fn reset(&self, entry: Entry) -> Result<(), KvmError> {
        self.initial.restore(&self.vcpu.fd)?;
        mtrr::set(&self.vcpu.fd)?;
        if self.index == 0 {
            entry.prepare(&self.vcpu.fd)?;
        }
        Ok(())
    }

    /// Runs the guest until something else is wanted.
    fn run(&mut self) -> Left {
        let buses = Arc::clone(&self.buses);
        loop {
            match raw::run(&mut self.vcpu.fd) {
                Ok(exit) => match serve(&buses, exit) {
                    Served::Again => {}
                    Served::Reset => {
                        tracing::info!(vcpu = self.index, "triple fault");
                        return self.stuck(GuestEvent::TripleFault);
                    }
                    Served::Broken(why) => return self.broken(&why),
                },
                Err(error) if error.errno() == libc::EINTR || error.errno() == libc::EAGAIN => {
                    // In this order: a kick that comes in between is seen in the state.
                    self.vcpu.kick().set(false);
                    if self.shared.lock().want != Want::Run {
                        return Left::Asked;
                    }
                }
                Err(error) => return self.broken(&format!("KVM_RUN failed: {error}")),
            }
        }
    }

    fn stuck(&self, event: GuestEvent) -> Left {
        self.post.guest(event);
        Left::Stuck
    }

    /// The guest cannot go on.
    fn broken(&self, why: &str) -> Left {
        let rip = self.vcpu.fd.get_regs().map_or(0, |regs| regs.rip);
        let text = format!("vCPU {} stopped at {rip:#x}: {why}", self.index);
        self.stuck(GuestEvent::Broken(text))
    }
}

/// What is left to do after an exit.
enum Served {
    Again,
    Reset,
    Broken(String),
}

/// Carries out the access that the guest was left for.
fn serve(buses: &Buses, exit: Exit<'_>) -> Served {
    match exit {
        Exit::PortIn { port, size, data } => {
            buses.ports.read_items(port.into(), size, data);
        }
        Exit::PortOut { port, size, data } => {
            buses.ports.write_items(port.into(), size, data);
        }
        Exit::MmioRead { address, data } => buses.mmio.read(address, data),
        Exit::MmioWrite { address, data } => buses.mmio.write(address, data),
        // With the interrupt controllers in the kernel, it waits for interrupts there.
        Exit::Halt | Exit::Again => {}
        Exit::Shutdown => return Served::Reset,
        Exit::Broken(why) => return Served::Broken(why),
    }
    Served::Again
}
