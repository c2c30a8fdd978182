//! The vCPUs: one thread each. They run, are parked, or end, all together.

mod registers;
mod report;
mod thread;

use std::{
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};

use kvm_bindings::CpuId;
use kvm_ioctls::Kvm;
use strata_devices::bus::Bus;
use vmm_sys_util::signal::Killable;

use self::thread::VcpuThread;
pub use self::{registers::Registers, report::VcpuReport};
use super::post::Post;
use crate::{
    kick_signal,
    kvm::{
        Doing, KvmError, cpuid,
        raw::{Kick, Vcpu, Vm},
        regs::{self, Entry},
        reset::VcpuState,
    },
};

/// The address spaces that vCPUs reach devices through. Nothing changes in them once a guest runs.
#[derive(Default)]
pub struct Buses {
    /// Port I/O.
    pub ports: Bus,
    /// Memory-mapped I/O.
    pub mmio: Bus,
}

/// What the threads are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Run,
    Park,
    End,
}

/// What the threads and their owner agree on.
struct State {
    want: Want,
    /// Threads that wait; none of them is in the guest or in a device.
    parked: usize,
    /// Counts resets; a parked thread that has seen fewer carries the last one out.
    resets: u64,
    /// Where vCPU 0 starts after the last reset.
    entry: Entry,
    /// Threads that have carried the last reset out.
    reset_done: usize,
    /// What went wrong in a reset.
    failure: Option<KvmError>,
    /// Counts requests for registers; a parked thread that has seen fewer answers the last one.
    inspections: u64,
    /// Answers to the last request.
    registers: Vec<Result<Registers, KvmError>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The threads, and how to reach them.
pub struct Vcpus {
    shared: Arc<Shared>,
    threads: Vec<(JoinHandle<()>, Arc<Kick>)>,
}

/// What new vCPUs need.
pub struct Setup {
    /// Where their features come from.
    pub kvm: Kvm,
    /// The machine.
    pub vm: Arc<Vm>,
    /// The devices.
    pub buses: Arc<Buses>,
    /// Where they report what the guest did.
    pub post: Post,
}

/// vCPUs could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// KVM refused something.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The host refused a thread.
    #[error("could not start a vCPU's thread: {0}")]
    Thread(io::Error),
}

impl Vcpus {
    /// Makes `count` parked vCPUs, in the state after power-on. [`Vcpus::reset`] comes next.
    ///
    /// # Errors
    /// What KVM or the host refused.
    pub fn new(setup: &Setup, count: u8) -> Result<Self, VcpuError> {
        kick_signal::install();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                want: Want::Park,
                parked: 0,
                resets: 0,
                entry: Entry::ResetVector,
                reset_done: 0,
                failure: None,
                inspections: 0,
                registers: Vec::new(),
            }),
            changed: Condvar::new(),
        });
        let mut vcpus = Self {
            shared,
            threads: Vec::new(),
        };
        let supported = cpuid::supported(&setup.kvm)?;
        for index in 0..count {
            vcpus.start(setup, &supported, index, count)?;
        }
        Ok(vcpus)
    }

    /// Starts the thread of one vCPU.
    fn start(
        &mut self,
        setup: &Setup,
        supported: &CpuId,
        index: u8,
        count: u8,
    ) -> Result<(), VcpuError> {
        let fd = setup.vm.fd.create_vcpu(index.into());
        let fd = fd.doing("create a vCPU")?;
        fd.set_cpuid2(&cpuid::for_vcpu(supported, index, count))
            .doing("set processor features")?;
        regs::set_fpu(&fd)?;
        regs::set_lint(&fd)?;
        let initial = VcpuState::save(&setup.kvm, &fd)?;
        let vcpu = Vcpu::new(fd, Arc::clone(&setup.vm));
        let kick = vcpu.kick();
        let body = VcpuThread {
            index,
            vcpu,
            initial,
            shared: Arc::clone(&self.shared),
            buses: Arc::clone(&setup.buses),
            post: setup.post.clone(),
        };
        let handle = std::thread::Builder::new()
            .name(format!("vcpu{index}"))
            .spawn(move || body.main())
            .map_err(VcpuError::Thread)?;
        self.threads.push((handle, kick));
        Ok(())
    }

    /// Lets them run.
    pub fn resume(&self) {
        self.shared.lock().want = Want::Run;
        self.shared.changed.notify_all();
    }

    /// Returns once none of them is in the guest or in a device.
    pub fn park(&self) {
        let mut state = self.interrupt(Want::Park);
        while state.parked < self.threads.len() {
            state = self.shared.wait(state);
        }
    }

    /// Brings them into the state after power-on, vCPU 0 about to start at `entry`.
    /// They must be parked, and stay so.
    ///
    /// # Errors
    /// What KVM refused.
    pub fn reset(&self, entry: Entry) -> Result<(), KvmError> {
        let mut state = self.shared.lock();
        state.entry = entry;
        state.resets += 1;
        state.reset_done = 0;
        self.shared.changed.notify_all();
        while state.reset_done < self.threads.len() {
            state = self.shared.wait(state);
        }
        state.failure.take().map_or(Ok(()), Err)
    }

    /// What each of them was doing, in order. They must be parked, and stay so.
    ///
    /// # Errors
    /// What KVM refused.
    pub fn inspect(&self) -> Result<Vec<Registers>, KvmError> {
        let mut state = self.shared.lock();
        state.inspections += 1;
        state.registers.clear();
        self.shared.changed.notify_all();
        while state.registers.len() < self.threads.len() {
            state = self.shared.wait(state);
        }
        let registers: Result<Vec<_>, _> = state.registers.drain(..).collect();
        let mut registers = registers?;
        registers.sort_by_key(|registers| registers.index);
        Ok(registers)
    }

    /// Sets what they are to do, and gets those that are in the guest out of it.
    fn interrupt(&self, want: Want) -> MutexGuard<'_, State> {
        self.shared.lock().want = want;
        self.shared.changed.notify_all();
        for (handle, kick) in &self.threads {
            kick.set(true);
            // An error means that the thread has ended, and then there is nothing to interrupt.
            let _ = handle.kill(kick_signal::number());
        }
        self.shared.lock()
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        drop(self.interrupt(Want::End));
        for (handle, _) in self.threads.drain(..) {
            // A thread that has panicked has said so.
            let _ = handle.join();
        }
    }
}
