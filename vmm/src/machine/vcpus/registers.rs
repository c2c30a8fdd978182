//! The registers of a vCPU that stands still.

use kvm_bindings::{KVM_MP_STATE_HALTED, Msrs, kvm_msr_entry, kvm_regs, kvm_sregs};
use kvm_ioctls::VcpuFd;

use crate::kvm::{Doing, KvmError};

/// The base that `swapgs` puts into GS.
const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;

/// What a vCPU was doing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Registers {
    /// Of the vCPU; counts from 0.
    pub index: u8,
    /// It waits for an interrupt (HLT).
    pub halted: bool,
    /// Those of programs.
    pub general: kvm_regs,
    /// Those of the kernel.
    pub system: kvm_sregs,
    /// The base of GS for the kernel while user space runs, or the other way round.
    pub kernel_gs_base: u64,
}

impl Registers {
    /// Reads those of a vCPU that is not in the guest.
    ///
    /// # Errors
    /// What KVM refused.
    pub fn read(index: u8, fd: &VcpuFd) -> Result<Self, KvmError> {
        let general = fd.get_regs().doing("read a vCPU's registers")?;
        let system = fd.get_sregs().doing("read a vCPU's system registers")?;
        let state = fd.get_mp_state().doing("read a vCPU's state")?;
        let entry = kvm_msr_entry {
            index: MSR_KERNEL_GS_BASE,
            ..Default::default()
        };
        let mut msrs = Msrs::from_entries(&[entry]).expect("one entry fits");
        fd.get_msrs(&mut msrs).doing("read a vCPU's MSR")?;
        Ok(Self {
            index,
            halted: state.mp_state == KVM_MP_STATE_HALTED,
            general,
            system,
            kernel_gs_base: msrs.as_slice().first().map_or(0, |msr| msr.data),
        })
    }
}
