//! The notes: for each processor its registers as Linux describes them to debuggers
//! (`NT_PRSTATUS`), and behind those of all, what QEMU adds for `crash`: segments, control
//! registers, descriptor tables.

use kvm_bindings::kvm_segment;
use object::{
    LittleEndian, U32, bytes_of,
    elf::{NT_PRSTATUS, NoteHeader64, NoteType},
};
use zerocopy::{Immutable, IntoBytes};

use crate::machine::Registers;

/// `struct elf_prstatus` of Linux on x86-64: what is not the registers' is for processes.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct ProcessStatus {
    signal: [u32; 8],
    pid: u32,
    parents_and_times: [u32; 19],
    registers: [u64; 27],
    floating_point_valid: u32,
    padding: u32,
}

/// A segment register of [`CpuState`].
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct Segment {
    selector: u32,
    limit: u32,
    /// Bits 8 to 23 of the descriptor's upper half.
    flags: u32,
    padding: u32,
    base: u64,
}

/// The note called `QEMU`, in its first version.
#[derive(IntoBytes, Immutable)]
#[repr(C)]
struct CpuState {
    version: u32,
    size: u32,
    /// rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8 to r15, rip, rflags.
    registers: [u64; 18],
    /// cs, ds, es, fs, gs, ss, ldt, tr, gdt, idt.
    segments: [Segment; 10],
    /// cr0 to cr4.
    control: [u64; 5],
    kernel_gs_base: u64,
}

/// The notes of all processors.
pub(super) fn of(cpus: &[Registers]) -> Vec<u8> {
    let mut notes = Vec::new();
    for cpu in cpus {
        add(&mut notes, b"CORE\0", NT_PRSTATUS, status(cpu).as_bytes());
    }
    for cpu in cpus {
        add(&mut notes, b"QEMU\0", NoteType(0), state(cpu).as_bytes());
    }
    notes
}

fn add(notes: &mut Vec<u8>, name: &[u8], kind: NoteType, content: &[u8]) {
    const ALIGNMENT: usize = 4;
    let endian = LittleEndian;
    let len = |len| u32::try_from(len).expect("names and registers are short");
    let header = NoteHeader64 {
        n_namesz: U32::new(endian, len(name.len())),
        n_descsz: U32::new(endian, len(content.len())),
        n_type: U32::new(endian, kind),
    };
    notes.extend(bytes_of(&header));
    for part in [name, content] {
        notes.extend(part);
        notes.resize(notes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

fn status(cpu: &Registers) -> ProcessStatus {
    let (general, system) = (&cpu.general, &cpu.system);
    // The order of Linux's `struct user_regs_struct`.
    let registers = [
        general.r15,
        general.r14,
        general.r13,
        general.r12,
        general.rbp,
        general.rbx,
        general.r11,
        general.r10,
        general.r9,
        general.r8,
        general.rax,
        general.rcx,
        general.rdx,
        general.rsi,
        general.rdi,
        // Of a system call that is to be repeated: there is none.
        u64::MAX,
        general.rip,
        system.cs.selector.into(),
        general.rflags,
        general.rsp,
        system.ss.selector.into(),
        system.fs.base,
        system.gs.base,
        system.ds.selector.into(),
        system.es.selector.into(),
        system.fs.selector.into(),
        system.gs.selector.into(),
    ];
    ProcessStatus {
        signal: [0; 8],
        // A debugger's threads are counted from 1.
        pid: u32::from(cpu.index) + 1,
        parents_and_times: [0; 19],
        registers,
        floating_point_valid: 0,
        padding: 0,
    }
}

fn state(cpu: &Registers) -> CpuState {
    let (general, system) = (&cpu.general, &cpu.system);
    let table = |base, limit: u16| Segment {
        selector: 0,
        limit: limit.into(),
        flags: 0,
        padding: 0,
        base,
    };
    CpuState {
        version: 1,
        size: u32::try_from(size_of::<CpuState>()).expect("it is short"),
        registers: [
            general.rax,
            general.rbx,
            general.rcx,
            general.rdx,
            general.rsi,
            general.rdi,
            general.rsp,
            general.rbp,
            general.r8,
            general.r9,
            general.r10,
            general.r11,
            general.r12,
            general.r13,
            general.r14,
            general.r15,
            general.rip,
            general.rflags,
        ],
        segments: [
            segment(&system.cs),
            segment(&system.ds),
            segment(&system.es),
            segment(&system.fs),
            segment(&system.gs),
            segment(&system.ss),
            segment(&system.ldt),
            segment(&system.tr),
            table(system.gdt.base, system.gdt.limit),
            table(system.idt.base, system.idt.limit),
        ],
        control: [system.cr0, 0, system.cr2, system.cr3, system.cr4],
        kernel_gs_base: cpu.kernel_gs_base,
    }
}

fn segment(segment: &kvm_segment) -> Segment {
    let bit = |value: u8, at: u32| u32::from(value & 1) << at;
    let flags = u32::from(segment.type_ & 0xf) << 8
        | bit(segment.s, 12)
        | u32::from(segment.dpl & 3) << 13
        | bit(segment.present, 15)
        | bit(segment.avl, 20)
        | bit(segment.l, 21)
        | bit(segment.db, 22)
        | bit(segment.g, 23);
    Segment {
        selector: segment.selector.into(),
        limit: segment.limit,
        flags,
        padding: 0,
        base: segment.base,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_that_readers_expect() {
        assert_eq!(size_of::<ProcessStatus>(), 336);
        assert_eq!(std::mem::offset_of!(ProcessStatus, registers), 112);
        assert_eq!(size_of::<CpuState>(), 440);
    }
}
