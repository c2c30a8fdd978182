//! KVM: whether it can be used, and the virtual machine made with it.

pub mod cpuid;
pub mod irq;
pub mod mtrr;
pub mod probe;
pub mod raw;
pub mod regs;
pub mod reset;

use std::io;

use kvm_bindings::{KVM_IRQCHIP_PIC_SLAVE, KVM_PIT_SPEAKER_DUMMY, kvm_irqchip, kvm_pit_config};
use kvm_ioctls::{Cap, Kvm, VmFd};
use strata_devices::pci::intx;
use strata_exec::mem::to_usize;
use vm_memory::GuestMemoryMmap;

use crate::layout;

/// A KVM call that failed.
#[derive(Debug, thiserror::Error)]
#[error("KVM could not {what}: {source}")]
pub struct KvmError {
    /// What was asked of it.
    pub what: &'static str,
    /// The kernel's answer.
    pub source: kvm_ioctls::Error,
}

/// Adds what was asked of KVM to its error.
pub trait Doing<T> {
    /// The error, when `what` fails.
    ///
    /// # Errors
    /// [`KvmError`] if `self` is one.
    fn doing(self, what: &'static str) -> Result<T, KvmError>;
}

impl<T> Doing<T> for Result<T, kvm_ioctls::Error> {
    fn doing(self, what: &'static str) -> Result<T, KvmError> {
        self.map_err(|source| KvmError { what, source })
    }
}

/// Capabilities without which no machine can be made.
const NEEDED: [(Cap, &str); 7] = [
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::Irqchip, "KVM_CAP_IRQCHIP"),
    (Cap::Pit2, "KVM_CAP_PIT2"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// Names of needed capabilities that this kernel's KVM lacks.
pub fn missing_capabilities(kvm: &Kvm) -> Vec<&'static str> {
    let lacks = NEEDED.iter().filter(|(cap, _)| !kvm.check_extension(*cap));
    lacks.map(|&(_, name)| name).collect()
}

/// A VM with `memory`, the interrupt controllers and the timer of a PC, and no vCPU yet. `rom` is
/// memory that the guest cannot write.
///
/// # Errors
/// What KVM refused.
pub fn create_vm(
    kvm: &Kvm,
    memory: GuestMemoryMmap,
    rom: Option<GuestMemoryMmap>,
) -> Result<raw::Vm, KvmError> {
    let fd = kvm.create_vm().doing("create a virtual machine")?;
    fd.set_identity_map_address(layout::IDENTITY_MAP)
        .doing("place its identity map")?;
    fd.set_tss_address(to_usize(layout::TSS))
        .doing("place its task state segment")?;
    fd.create_irq_chip()
        .doing("create the interrupt controllers")?;
    set_levels(&fd)?;
    let pit = kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    };
    fd.create_pit2(pit).doing("create the timer")?;
    raw::Vm::new(fd, memory, rom).doing("map the guest's memory")
}

/// Has the second 8259 take PCI's interrupts by level, as a BIOS does.
fn set_levels(vm: &VmFd) -> Result<(), KvmError> {
    let mut chip = kvm_irqchip {
        chip_id: KVM_IRQCHIP_PIC_SLAVE,
        ..Default::default()
    };
    vm.get_irqchip(&mut chip)
        .doing("read an interrupt controller")?;
    let levels = intx::ROUTES.map(|irq| 1 << (irq - 8));
    chip.chip.pic.elcr = levels.into_iter().fold(0, |all, level| all | level);
    vm.set_irqchip(&chip).doing("set an interrupt controller")
}

/// The kernel's error as one of `std`.
pub fn to_io(error: kvm_ioctls::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}
