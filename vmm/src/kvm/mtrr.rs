//! The memory type range registers, as a BIOS leaves them (Intel SDM 3A, 12.11).
//!
//! A kernel that finds them blank takes it that nobody has set the machine up, and does without the
//! page attribute table as well.

use kvm_bindings::{CpuId, Msrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use super::{Doing, KvmError};
use crate::layout;

const CAPABILITIES: u32 = 0xfe;
/// Base of variable range 0; its mask follows, then the next range.
const FIRST_BASE: u32 = 0x200;
const DEFAULT_TYPE: u32 = 0x2ff;

const UNCACHEABLE: u64 = 0;
const WRITE_PROTECTED: u64 = 5;
const WRITE_BACK: u64 = 6;
/// In a mask: the range is used.
const VALID: u64 = 1 << 11;
/// In the default type: the fixed ranges are used.
const FIXED_ENABLED: u64 = 1 << 10;
/// In the default type: all of them are used.
const ENABLED: u64 = 1 << 11;

/// Each covers eight ranges: one below 512 KiB, one up to the video memory, that, and the ROMs.
const FIXED: [(u32, u64); 11] = [
    (0x250, every(WRITE_BACK)),
    (0x258, every(WRITE_BACK)),
    (0x259, every(UNCACHEABLE)),
    (0x268, every(WRITE_PROTECTED)),
    (0x269, every(WRITE_PROTECTED)),
    (0x26a, every(WRITE_PROTECTED)),
    (0x26b, every(WRITE_PROTECTED)),
    (0x26c, every(WRITE_PROTECTED)),
    (0x26d, every(WRITE_PROTECTED)),
    (0x26e, every(WRITE_PROTECTED)),
    (0x26f, every(WRITE_PROTECTED)),
];

/// The same type for eight ranges.
const fn every(kind: u64) -> u64 {
    kind * 0x0101_0101_0101_0101
}

/// Sets them on `vcpu`: memory is cached, video memory and what lies between the memory and 4 GiB
/// is not.
///
/// # Errors
/// What KVM refused.
pub fn set(vcpu: &VcpuFd) -> Result<(), KvmError> {
    let cpuid = vcpu
        .get_cpuid2(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .doing("read processor features")?;
    let mut capabilities = Msrs::from_entries(&[entry(CAPABILITIES, 0)]).expect("one entry fits");
    let read = vcpu.get_msrs(&mut capabilities);
    let variable = match read.doing("read the memory type ranges")? {
        1 => (capabilities.as_slice()[0].data & 0xff) as u32,
        // There are none to be set.
        _ => return Ok(()),
    };
    let entries = entries(variable, address_bits(&cpuid));
    let msrs = Msrs::from_entries(&entries).expect("these are few");
    let written = vcpu.set_msrs(&msrs).doing("set the memory type ranges")?;
    if written != entries.len() {
        let index = entries[written].index;
        tracing::warn!(index, "KVM refused a memory type range");
    }
    Ok(())
}

/// What is written, the register that switches them on last.
fn entries(variable: u32, address_bits: u8) -> Vec<kvm_msr_entry> {
    let mut entries: Vec<_> = FIXED.map(|(index, data)| entry(index, data)).into();
    let width = (1u64 << address_bits) - 1;
    let hole = layout::HIGH_MEMORY - layout::LOW_MEMORY_LIMIT;
    for range in 0..variable {
        let (base, mask) = match range {
            0 => (
                layout::LOW_MEMORY_LIMIT | UNCACHEABLE,
                width & !(hole - 1) | VALID,
            ),
            _ => (0, 0),
        };
        entries.push(entry(FIRST_BASE + 2 * range, base));
        entries.push(entry(FIRST_BASE + 2 * range + 1, mask));
    }
    entries.push(entry(DEFAULT_TYPE, ENABLED | FIXED_ENABLED | WRITE_BACK));
    entries
}

fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry {
        index,
        data,
        ..Default::default()
    }
}

/// Bits of a physical address: leaf 0x8000_0008, or 36 where there is none.
fn address_bits(cpuid: &CpuId) -> u8 {
    let sizes = cpuid
        .as_slice()
        .iter()
        .find(|entry| entry.function == 0x8000_0008);
    sizes.map_or(36, |entry| entry.eax.to_le_bytes()[0].clamp(36, 52))
}

#[cfg(test)]
mod tests;
