//! The probe guest: enters user mode by IRETQ, executes SYSCALL there, and its kernel's entry
//! point writes its code segment to a port, for the host.

use std::sync::{Arc, mpsc::Sender};

use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::{Kvm, VcpuFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::Unusable;
use crate::kvm::{
    Doing, KvmError, cpuid,
    raw::{self, Exit, Kick, Vcpu, Vm},
};

const MEMORY: usize = 0x1_0000;
const GDT: u64 = 0x500;
const PAGE_TABLES: u64 = 0x1000;
const KERNEL: u64 = 0x8000;
const SYSCALL_ENTRY: u64 = 0x8010;
const USER: u64 = 0x9000;
const FRAME: u64 = 0xa000;
const USER_STACK: u64 = 0xb000;
/// Where the kernel writes its code segment to.
const PORT: u16 = 0xf4;

const KERNEL_CODE: u16 = 0x08;
const KERNEL_DATA: u16 = 0x10;
const USER_DATA: u16 = 0x18 | 3;
const USER_CODE: u16 = 0x20 | 3;
const TASK: u16 = 0x28;

/// Selectors in the order that SYSCALL and SYSRET want them (AMD APM 2, 6.1.1).
const DESCRIPTORS: [u64; 6] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
    0x0000_8b00_0000_ffff,
];

/// `iretq`
const KERNEL_TEXT: [u8; 2] = [0x48, 0xcf];
/// `mov eax, cs; mov edx, PORT; out dx, eax; hlt`
const ENTRY_TEXT: [u8; 9] = {
    let [low, high] = PORT.to_le_bytes();
    [0x8c, 0xc8, 0xba, low, high, 0, 0, 0xef, 0xf4]
};
/// `mov ebx, cs; syscall; ud2`
const USER_TEXT: [u8; 6] = [0x8c, 0xcb, 0x0f, 0x05, 0x0f, 0x0b];
/// Address after the SYSCALL, which it leaves in RCX.
const USER_NEXT: u64 = USER + 4;

const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_FMASK: u32 = 0xc000_0084;

/// Runs it once. Its kick is sent before the guest is entered for the first time.
///
/// # Errors
/// A KVM call that failed, or where the guest went instead.
pub fn run(kick: &Sender<Arc<Kick>>) -> Result<(), Unusable> {
    let kvm = Kvm::new().doing("be opened twice")?;
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY)])
        .map_err(|error| Unusable::Open(std::io::Error::other(error)))?;
    fill(&memory).map_err(|error| Unusable::Open(std::io::Error::other(error)))?;
    let vm = kvm.create_vm().doing("create a virtual machine")?;
    let vm = Arc::new(Vm::new(vm, memory, None).doing("map the guest's memory")?);
    let vcpu = vm.fd.create_vcpu(0).doing("create a vCPU")?;
    let features = cpuid::for_vcpu(&cpuid::supported(&kvm)?, 0, 1);
    vcpu.set_cpuid2(&features).doing("set processor features")?;
    set_state(&vcpu)?;

    let mut vcpu = Vcpu::new(vcpu, vm);
    // The other end waits for the outcome, so it is there.
    let _ = kick.send(vcpu.kick());
    let arrived = match raw::run(&mut vcpu.fd).doing("run the probe guest")? {
        Exit::PortOut {
            port: PORT, data, ..
        } => u16::from_le_bytes([data[0], data[1]]),
        Exit::Shutdown => return Err(Unusable::NoUserMode("it faulted three times".into())),
        exit => return Err(Unusable::NoUserMode(format!("it left with {exit:x?}"))),
    };
    let regs = vcpu.fd.get_regs().doing("read registers")?;
    judge(arrived, &regs).map_err(Unusable::NoUserMode)
}

/// Whether the guest was in user mode before the system call and in its kernel after it.
pub(super) fn judge(arrived: u16, regs: &kvm_regs) -> Result<(), String> {
    if regs.rbx & 0xffff != u64::from(USER_CODE) {
        return Err(format!("user mode had the code segment {:#x}", regs.rbx));
    }
    if arrived != KERNEL_CODE {
        return Err(format!(
            "a system call arrived with the code segment {arrived:#x}"
        ));
    }
    if regs.rcx != USER_NEXT {
        return Err(format!(
            "a system call left the return address {:#x}",
            regs.rcx
        ));
    }
    Ok(())
}

/// Code, descriptors, page tables (the first 2 MiB, for user mode too) and the frame for IRETQ.
fn fill(memory: &GuestMemoryMmap) -> Result<(), vm_memory::GuestMemoryError> {
    memory.write_slice(&KERNEL_TEXT, GuestAddress(KERNEL))?;
    memory.write_slice(&ENTRY_TEXT, GuestAddress(SYSCALL_ENTRY))?;
    memory.write_slice(&USER_TEXT, GuestAddress(USER))?;
    memory.write_obj(DESCRIPTORS, GuestAddress(GDT))?;
    let present_writable_user = 7;
    let large = 1 << 7;
    for (level, flags) in [(0, 0x2000), (1, 0x3000), (2, large)] {
        let entry: u64 = flags | present_writable_user;
        memory.write_obj(entry, GuestAddress(PAGE_TABLES + level * 0x1000))?;
    }
    let flags = 2;
    let frame = [USER, USER_CODE.into(), flags, USER_STACK, USER_DATA.into()];
    memory.write_obj::<[u64; 5]>(frame, GuestAddress(FRAME))
}

/// Long mode in the kernel, about to execute IRETQ; SYSCALL enabled.
fn set_state(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let mut sregs = vcpu.get_sregs().doing("read control registers")?;
    set_sregs(&mut sregs);
    vcpu.set_sregs(&sregs).doing("set control registers")?;
    let star = u64::from(KERNEL_DATA) << 48 | u64::from(KERNEL_CODE) << 32;
    let msrs = [(MSR_STAR, star), (MSR_LSTAR, SYSCALL_ENTRY), (MSR_FMASK, 0)];
    let entries = msrs.map(|(index, data)| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    });
    let msrs = Msrs::from_entries(&entries).expect("three entries fit");
    vcpu.set_msrs(&msrs).doing("set system call MSRs")?;
    let regs = kvm_regs {
        rip: KERNEL,
        rsp: FRAME,
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs).doing("set registers")
}

fn set_sregs(sregs: &mut kvm_sregs) {
    let data = kvm_segment {
        selector: KERNEL_DATA,
        limit: u32::MAX,
        type_: 3,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = kvm_segment {
        selector: KERNEL_CODE,
        type_: 0xb,
        db: 0,
        l: 1,
        ..data
    };
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    sregs.tr = kvm_segment {
        selector: TASK,
        limit: 0xffff,
        type_: 0xb,
        present: 1,
        ..Default::default()
    };
    sregs.gdt.base = GDT;
    sregs.gdt.limit = u16::try_from(DESCRIPTORS.len() * 8 - 1).expect("six descriptors");
    sregs.cr3 = PAGE_TABLES;
    sregs.cr4 |= 1 << 5; // PAE
    sregs.cr0 = 1 << 31 | 1 << 5 | 1 << 4 | 1; // PG, NE, ET, PE
    sregs.efer |= 1 << 10 | 1 << 8 | 1; // LMA, LME, SCE
}
