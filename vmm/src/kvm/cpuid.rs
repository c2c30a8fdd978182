//! What CPUID says to the guest: what KVM supports, with this machine's topology filled in.
//!
//! One package of single-threaded cores; a vCPU's APIC id is its index.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm};

use super::{Doing, KvmError};

/// vCPUs at most: their APIC ids fit the 8 bits of the xAPIC, 255 being the broadcast.
pub const MAX_CPUS: u8 = 254;

const LEAF_FEATURES: u32 = 1;
const LEAF_CACHES: u32 = 4;
const LEAF_TOPOLOGY: u32 = 0xb;
const LEAF_TOPOLOGY_V2: u32 = 0x1f;
const LEAF_AMD_SIZES: u32 = 0x8000_0008;
const LEAF_AMD_CACHES: u32 = 0x8000_001d;
const LEAF_AMD_TOPOLOGY: u32 = 0x8000_001e;

/// Leaf 1, ECX: the TSC deadline timer.
const ECX_TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1, ECX: a hypervisor is present.
const ECX_HYPERVISOR: u32 = 1 << 31;
/// Leaf 1, EDX: several logical processors in the package.
const EDX_HTT: u32 = 1 << 28;

/// What KVM supports on this host, for no vCPU in particular.
///
/// # Errors
/// What KVM refused.
pub fn supported(kvm: &Kvm) -> Result<CpuId, KvmError> {
    let mut cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .doing("list the processor features it supports")?;
    // KVM emulates it but does not list it, because it needs the local APIC in the kernel.
    if kvm.check_extension(Cap::TscDeadlineTimer) {
        for entry in cpuid.as_mut_slice() {
            if entry.function == LEAF_FEATURES {
                entry.ecx |= ECX_TSC_DEADLINE;
            }
        }
    }
    Ok(cpuid)
}

/// `supported` for vCPU `index` of `count`.
pub fn for_vcpu(supported: &CpuId, index: u8, count: u8) -> CpuId {
    let mut cpuid = supported.clone();
    for entry in cpuid.as_mut_slice() {
        set_topology(entry, u32::from(index), u32::from(count));
    }
    cpuid
}

/// Fills in what depends on the vCPU (Intel SDM 2A, CPUID; AMD APM 3, appendix E).
fn set_topology(entry: &mut kvm_cpuid_entry2, index: u32, count: u32) {
    // Bits of an APIC id that distinguish cores of one package.
    let core_bits = count.next_power_of_two().trailing_zeros();
    match entry.function {
        LEAF_FEATURES => {
            let clflush_and_brand = entry.ebx & 0xffff;
            entry.ebx = index << 24 | count << 16 | clflush_and_brand;
            entry.ecx |= ECX_HYPERVISOR;
            entry.edx &= !EDX_HTT;
            if count > 1 {
                entry.edx |= EDX_HTT;
            }
        }
        LEAF_CACHES | LEAF_AMD_CACHES if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 7;
            // The last level is shared by the package, the others belong to one core.
            let sharing = if level >= 3 { count - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | sharing << 14;
            if entry.function == LEAF_CACHES {
                entry.eax |= ((1 << core_bits) - 1) << 26;
            }
        }
        LEAF_TOPOLOGY | LEAF_TOPOLOGY_V2 => {
            let (shift, logical, kind) = match entry.index {
                0 => (0, 1, 1),
                1 => (core_bits, count, 2),
                _ => (0, 0, 0),
            };
            entry.eax = shift;
            entry.ebx = logical;
            entry.ecx = kind << 8 | entry.index & 0xff;
            entry.edx = index;
        }
        LEAF_AMD_SIZES => entry.ecx = entry.ecx & !0xf0ff | core_bits << 12 | (count - 1),
        LEAF_AMD_TOPOLOGY => {
            entry.eax = index;
            entry.ebx = index & 0xff;
            entry.ecx = 0;
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
