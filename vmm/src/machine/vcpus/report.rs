//! What a vCPU was doing, for people who have to find out why a guest hangs.

use std::fmt;

use serde::{Serialize, Serializer};

use super::Registers;

/// A 64-bit register; hexadecimal where it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(pub u64);

impl fmt::Display for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

impl Serialize for Register {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The state of one vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(
    missing_docs,
    reason = "registers have the names that the processor's manual gives them"
)]
pub struct VcpuReport {
    /// Counts from 0.
    pub index: u8,
    /// It waits for an interrupt (HLT).
    pub halted: bool,
    /// 0 in the kernel, 3 in user space.
    pub privilege_level: u8,
    pub rip: Register,
    pub rsp: Register,
    pub rflags: Register,
    pub rax: Register,
    pub rbx: Register,
    pub rcx: Register,
    pub rdx: Register,
    pub rsi: Register,
    pub rdi: Register,
    pub rbp: Register,
    pub r8: Register,
    pub r9: Register,
    pub r10: Register,
    pub r11: Register,
    pub r12: Register,
    pub r13: Register,
    pub r14: Register,
    pub r15: Register,
    pub cr0: Register,
    pub cr2: Register,
    pub cr3: Register,
    pub cr4: Register,
}

impl VcpuReport {
    /// What `registers` say.
    pub fn new(registers: &Registers) -> Self {
        let (regs, sregs) = (&registers.general, &registers.system);
        Self {
            index: registers.index,
            halted: registers.halted,
            privilege_level: sregs.ss.dpl,
            rip: Register(regs.rip),
            rsp: Register(regs.rsp),
            rflags: Register(regs.rflags),
            rax: Register(regs.rax),
            rbx: Register(regs.rbx),
            rcx: Register(regs.rcx),
            rdx: Register(regs.rdx),
            rsi: Register(regs.rsi),
            rdi: Register(regs.rdi),
            rbp: Register(regs.rbp),
            r8: Register(regs.r8),
            r9: Register(regs.r9),
            r10: Register(regs.r10),
            r11: Register(regs.r11),
            r12: Register(regs.r12),
            r13: Register(regs.r13),
            r14: Register(regs.r14),
            r15: Register(regs.r15),
            cr0: Register(sregs.cr0),
            cr2: Register(sregs.cr2),
            cr3: Register(sregs.cr3),
            cr4: Register(sregs.cr4),
        }
    }
}

impl fmt::Display for VcpuReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match self.privilege_level {
            0 => "in the kernel",
            _ => "in user space",
        };
        let halted = if self.halted { ", halted" } else { "" };
        write!(
            f,
            "vCPU {}: {place}{halted}: rip {}, rsp {}, cr3 {}, rflags {}",
            self.index, self.rip, self.rsp, self.cr3, self.rflags
        )
    }
}
