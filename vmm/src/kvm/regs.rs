//! Register state for entering a kernel, and the tables that it points to.
//!
//! Linux's `Documentation/arch/x86/boot.rst`, "64-bit boot protocol": long mode, memory identity
//! mapped, flat segments with the selectors 0x10 (code) and 0x18 (data), interrupts off, RSI at the
//! zero page. Its 32-bit protocol, PVH and multiboot: the same segments, 32 bits wide, no paging.

use kvm_bindings::{kvm_fpu, kvm_lapic_state, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::{Doing, KvmError};
use crate::layout;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

const PAGE_PRESENT: u64 = 1;
const PAGE_WRITABLE: u64 = 1 << 1;
const PAGE_LARGE: u64 = 1 << 7;
/// Bytes mapped by one entry of a page directory.
const LARGE_PAGE: u64 = 2 << 20;
const ENTRIES: u64 = 512;
/// Page directories: 4 GiB are mapped.
const DIRECTORIES: u64 = 4;

/// Descriptors, by selector / 8. The third is code, the fourth data, the fifth a task state
/// segment.
const GDT: [u64; 5] = [
    0,
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x0000_8b00_0000_ffff,
];
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;

/// The same for code of 32 bits, and a task state segment as PVH wants it.
const GDT_32: [u64; 5] = [
    0,
    0,
    0x00cf_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x0000_8b00_0000_0067,
];

/// Writes what the registers of `entry` refer to: the descriptor table, for long mode page tables.
///
/// # Errors
/// If the guest has no memory there.
pub fn write_tables(memory: &GuestMemoryMmap, entry: Entry) -> Result<(), GuestMemoryError> {
    match entry {
        Entry::ResetVector | Entry::RealMode { .. } => Ok(()),
        Entry::ProtectedMode(_) => write_gdt(memory, &GDT_32),
        Entry::LongMode(_) => {
            write_gdt(memory, &GDT)?;
            write_page_tables(memory)
        }
    }
}

fn write_gdt(memory: &GuestMemoryMmap, gdt: &[u64]) -> Result<(), GuestMemoryError> {
    for (index, &descriptor) in (0..).zip(gdt) {
        memory.write_obj(descriptor, GuestAddress(layout::GDT + index * 8))?;
    }
    Ok(())
}

fn write_page_tables(memory: &GuestMemoryMmap) -> Result<(), GuestMemoryError> {
    let pml4 = layout::PAGE_TABLES;
    let pdpt = pml4 + 0x1000;
    let directories = pdpt + 0x1000;
    let table = PAGE_PRESENT | PAGE_WRITABLE;
    memory.write_slice(&[0; 0x2000], GuestAddress(pml4))?;
    memory.write_obj(pdpt | table, GuestAddress(pml4))?;
    for directory in 0..DIRECTORIES {
        let address = directories + directory * 0x1000;
        memory.write_obj(address | table, GuestAddress(pdpt + directory * 8))?;
        for entry in 0..ENTRIES {
            let page = (directory * ENTRIES + entry) * LARGE_PAGE;
            let value = page | table | PAGE_LARGE;
            memory.write_obj(value, GuestAddress(address + entry * 8))?;
        }
    }
    Ok(())
}

/// Where the first vCPU starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Where a processor starts after power-on: in real mode, 16 bytes below 4 GiB.
    ResetVector,
    /// In real mode.
    RealMode {
        /// The code segment.
        segment: u16,
        /// Where in it.
        offset: u16,
    },
    /// As [`enter_long_mode`] has it.
    LongMode(u64),
    /// As [`enter_protected_mode`] has it.
    ProtectedMode(Registers),
}

/// Registers in which a kernel takes its parameters, all 32 bits wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Registers {
    /// Where it starts, a physical address.
    pub eip: u64,
    /// For multiboot, its mark.
    pub eax: u64,
    /// For multiboot and PVH, an address.
    pub ebx: u64,
    /// For Linux, an address.
    pub esi: u64,
}

impl Entry {
    /// Prepares `vcpu`, which is in the state after power-on, to start there.
    ///
    /// # Errors
    /// What KVM refused.
    pub fn prepare(self, vcpu: &VcpuFd) -> Result<(), KvmError> {
        match self {
            Self::ResetVector => Ok(()),
            Self::RealMode { segment, offset } => enter_real_mode(vcpu, segment, offset),
            Self::LongMode(entry) => enter_long_mode(vcpu, entry),
            Self::ProtectedMode(registers) => enter_protected_mode(vcpu, registers),
        }
    }
}

/// Lets `vcpu` start in real mode.
fn enter_real_mode(vcpu: &VcpuFd, segment: u16, offset: u16) -> Result<(), KvmError> {
    let mut sregs = vcpu.get_sregs().doing("read control registers")?;
    sregs.cs.base = u64::from(segment) << 4;
    sregs.cs.selector = segment;
    vcpu.set_sregs(&sregs).doing("set control registers")?;
    let mut regs = vcpu.get_regs().doing("read registers")?;
    regs.rip = offset.into();
    vcpu.set_regs(&regs).doing("set registers")
}

/// Lets `vcpu` start at `entry` (a physical address) in long mode with the zero page in RSI.
///
/// # Errors
/// What KVM refused.
pub fn enter_long_mode(vcpu: &VcpuFd, entry: u64) -> Result<(), KvmError> {
    let mut sregs = vcpu.get_sregs().doing("read control registers")?;
    long_mode(&mut sregs);
    vcpu.set_sregs(&sregs).doing("set control registers")?;
    let regs = kvm_regs {
        rip: entry,
        rsi: layout::ZERO_PAGE,
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs).doing("set registers")
}

/// Lets `vcpu` start in protected mode, without paging, with these registers.
///
/// # Errors
/// What KVM refused.
pub fn enter_protected_mode(vcpu: &VcpuFd, registers: Registers) -> Result<(), KvmError> {
    let mut sregs = vcpu.get_sregs().doing("read control registers")?;
    set_segments(&mut sregs, &GDT_32);
    sregs.cr0 = CR0_PE | CR0_ET;
    vcpu.set_sregs(&sregs).doing("set control registers")?;
    let regs = kvm_regs {
        rip: registers.eip,
        rax: registers.eax,
        rbx: registers.ebx,
        rsi: registers.esi,
        rflags: 2,
        ..Default::default()
    };
    vcpu.set_regs(&regs).doing("set registers")
}

/// Flat 64-bit segments, the tables of [`write_tables`], paging on.
fn long_mode(sregs: &mut kvm_sregs) {
    set_segments(sregs, &GDT);
    sregs.cr3 = layout::PAGE_TABLES;
    sregs.cr4 |= CR4_PAE;
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.efer |= EFER_LME | EFER_LMA;
}

/// The segments of `gdt`, and no interrupt table.
fn set_segments(sregs: &mut kvm_sregs, gdt: &[u64; 5]) {
    let data = segment(gdt, DATA);
    sregs.cs = segment(gdt, CODE);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = segment(gdt, TASK);
    sregs.gdt.base = layout::GDT;
    sregs.gdt.limit = u16::try_from(gdt.len() * 8 - 1).expect("five descriptors");
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
}

/// The descriptor behind `selector` as KVM wants it (Intel SDM 3A, 3.4.5).
fn segment(gdt: &[u64; 5], selector: u16) -> kvm_segment {
    let descriptor = gdt[usize::from(selector / 8)];
    let bit = |at: u32| (descriptor >> at & 1) as u8;
    let limit = descriptor & 0xffff | descriptor >> 32 & 0xf_0000;
    let limit = u32::try_from(limit).expect("20 bits");
    kvm_segment {
        base: 0,
        limit: if bit(55) == 1 {
            limit << 12 | 0xfff
        } else {
            limit
        },
        selector,
        type_: (descriptor >> 40 & 0xf) as u8,
        present: bit(47),
        dpl: (descriptor >> 45 & 3) as u8,
        db: bit(54),
        s: bit(44),
        l: bit(53),
        g: bit(55),
        avl: bit(52),
        unusable: 0,
        padding: 0,
    }
}

/// The floating-point unit as after FNINIT, SSE exceptions masked.
///
/// # Errors
/// What KVM refused.
pub fn set_fpu(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let fpu = kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    };
    vcpu.set_fpu(&fpu).doing("set the floating-point unit")
}

/// Offset of LVT LINT0 in the local APIC's registers (Intel SDM 3A, 11.4.1).
const LVT_LINT0: usize = 0x350;
/// Offset of LVT LINT1.
const LVT_LINT1: usize = 0x360;
const DELIVERY_NMI: u32 = 0x400;
const DELIVERY_EXTINT: u32 = 0x700;

/// Wires the 8259 to LINT0 and NMI to LINT1, as a BIOS leaves them.
///
/// # Errors
/// What KVM refused.
pub fn set_lint(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let mut lapic = vcpu.get_lapic().doing("read the local APIC")?;
    write_lvt(&mut lapic, LVT_LINT0, DELIVERY_EXTINT);
    write_lvt(&mut lapic, LVT_LINT1, DELIVERY_NMI);
    vcpu.set_lapic(&lapic).doing("set the local APIC")
}

/// An unmasked local vector table entry.
fn write_lvt(lapic: &mut kvm_lapic_state, offset: usize, delivery: u32) {
    for (to, from) in lapic.regs[offset..].iter_mut().zip(delivery.to_le_bytes()) {
        *to = from as _;
    }
}

#[cfg(test)]
mod tests;
