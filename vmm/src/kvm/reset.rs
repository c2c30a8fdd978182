//! What a vCPU, and the controllers in the kernel, looked like before the guest ran: a reset
//! brings it back.

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, Msrs, kvm_debugregs,
    kvm_fpu, kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pit_state2, kvm_regs,
    kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use super::{Doing, KvmError};

/// The time stamp counter goes on through a reset: KVM keeps those of all vCPUs in step only then.
const MSR_TSC: u32 = 0x10;
/// Same counter, other name.
const MSR_TSC_ADJUST: u32 = 0x3b;

/// The state of one vCPU.
pub struct VcpuState {
    regs: kvm_regs,
    sregs: kvm_sregs,
    fpu: kvm_fpu,
    xcrs: Option<kvm_xcrs>,
    debug: kvm_debugregs,
    events: kvm_vcpu_events,
    lapic: kvm_lapic_state,
    mp: kvm_mp_state,
    msrs: Vec<kvm_msr_entry>,
}

impl VcpuState {
    /// Reads the state of `vcpu`, which must not be running.
    ///
    /// # Errors
    /// What KVM refused.
    pub fn save(kvm: &Kvm, vcpu: &VcpuFd) -> Result<Self, KvmError> {
        Ok(Self {
            regs: vcpu.get_regs().doing("read registers")?,
            sregs: vcpu.get_sregs().doing("read control registers")?,
            fpu: vcpu.get_fpu().doing("read the floating-point unit")?,
            // Processors without XSAVE have none.
            xcrs: vcpu.get_xcrs().ok(),
            debug: vcpu.get_debug_regs().doing("read debug registers")?,
            events: vcpu.get_vcpu_events().doing("read pending events")?,
            lapic: vcpu.get_lapic().doing("read the local APIC")?,
            mp: vcpu.get_mp_state().doing("read the processor's state")?,
            msrs: save_msrs(kvm, vcpu)?,
        })
    }

    /// Sets all of it on `vcpu`, which must not be running.
    ///
    /// # Errors
    /// What KVM refused.
    pub fn restore(&self, vcpu: &VcpuFd) -> Result<(), KvmError> {
        // The APIC base in the control registers decides which local APIC registers exist.
        vcpu.set_sregs(&self.sregs)
            .doing("reset control registers")?;
        vcpu.set_regs(&self.regs).doing("reset registers")?;
        vcpu.set_fpu(&self.fpu)
            .doing("reset the floating-point unit")?;
        if let Some(xcrs) = &self.xcrs {
            vcpu.set_xcrs(xcrs)
                .doing("reset extended control registers")?;
        }
        vcpu.set_debug_regs(&self.debug)
            .doing("reset debug registers")?;
        vcpu.set_lapic(&self.lapic).doing("reset the local APIC")?;
        restore_msrs(vcpu, &self.msrs)?;
        vcpu.set_vcpu_events(&self.events)
            .doing("reset pending events")?;
        vcpu.set_mp_state(self.mp)
            .doing("reset the processor's state")
    }
}

/// All MSRs that KVM lists and this vCPU lets be read.
fn save_msrs(kvm: &Kvm, vcpu: &VcpuFd) -> Result<Vec<kvm_msr_entry>, KvmError> {
    let list = kvm.get_msr_index_list().doing("list its MSRs")?;
    let mut saved = Vec::new();
    for &index in list.as_slice() {
        if index == MSR_TSC || index == MSR_TSC_ADJUST {
            continue;
        }
        let entry = kvm_msr_entry {
            index,
            ..Default::default()
        };
        let mut one = Msrs::from_entries(&[entry]).expect("one entry fits");
        // One by one: KVM stops at the first that this processor does not have.
        if let Ok(1) = vcpu.get_msrs(&mut one) {
            saved.extend_from_slice(one.as_slice());
        }
    }
    Ok(saved)
}

/// Writes them back; those that KVM lists but does not let be written stay as they are.
fn restore_msrs(vcpu: &VcpuFd, msrs: &[kvm_msr_entry]) -> Result<(), KvmError> {
    for entry in msrs {
        let one = Msrs::from_entries(&[*entry]).expect("one entry fits");
        let written = vcpu.set_msrs(&one).doing("reset MSRs")?;
        if written == 0 {
            tracing::debug!(index = entry.index, "MSR could not be reset");
        }
    }
    Ok(())
}

/// The interrupt controllers and the timer in the kernel.
pub struct ChipState {
    chips: Vec<kvm_irqchip>,
    pit: kvm_pit_state2,
}

impl ChipState {
    /// Reads their state.
    ///
    /// # Errors
    /// What KVM refused.
    pub fn save(vm: &VmFd) -> Result<Self, KvmError> {
        let ids = [
            KVM_IRQCHIP_PIC_MASTER,
            KVM_IRQCHIP_PIC_SLAVE,
            KVM_IRQCHIP_IOAPIC,
        ];
        let mut chips = Vec::new();
        for chip_id in ids {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            vm.get_irqchip(&mut chip)
                .doing("read an interrupt controller")?;
            chips.push(chip);
        }
        let pit = vm.get_pit2().doing("read the timer")?;
        Ok(Self { chips, pit })
    }

    /// Sets it.
    ///
    /// # Errors
    /// What KVM refused.
    pub fn restore(&self, vm: &VmFd) -> Result<(), KvmError> {
        for chip in &self.chips {
            vm.set_irqchip(chip)
                .doing("reset an interrupt controller")?;
        }
        vm.set_pit2(&self.pit).doing("reset the timer")
    }
}
