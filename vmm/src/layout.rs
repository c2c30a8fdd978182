//! Where things lie in the guest's physical address space.

/// First address after the memory below the PCI hole, at most: 3 GiB.
pub const LOW_MEMORY_LIMIT: u64 = 0xc000_0000;
/// Memory that does not fit below the hole goes on here: 4 GiB.
pub const HIGH_MEMORY: u64 = 1 << 32;

/// End of conventional memory; the extended BIOS data area begins.
pub const EBDA: u64 = (EBDA_SEGMENT as u64) << 4;
/// Its segment.
pub const EBDA_SEGMENT: u16 = 0x9fc0;
/// ACPI tables: what a BIOS calls its read-only area, which operating systems search for the RSDP.
pub const ACPI: u64 = 0xe_0000;
/// Bytes for ACPI tables.
pub const ACPI_LEN: u64 = 0x2_0000;
/// Extended memory: 1 MiB.
pub const EXTENDED: u64 = 0x10_0000;

/// Where a BIOS says what segment the extended BIOS data area has, in 16 bits.
pub const BIOS_EBDA_SEGMENT: u64 = 0x40e;
/// Where it says how many KiB of memory there are below that area, in 16 bits.
pub const BIOS_MEMORY_KIB: u64 = 0x413;
/// Where a guest says where a BIOS is to jump after a reset: offset and segment, of 16 bits each.
pub const BIOS_WARM_START: u64 = 0x467;
/// Global descriptor table used at entry.
pub const GDT: u64 = 0x500;
/// The zero page (`struct boot_params`).
pub const ZERO_PAGE: u64 = 0x7000;
/// Page tables used at entry: six pages.
pub const PAGE_TABLES: u64 = 0x9000;
/// What is passed to a multiboot kernel, with all strings; up to the EBDA.
pub const MULTIBOOT_INFO: u64 = 0x1_0000;
/// Below it lies what a multiboot kernel is started with.
pub const MULTIBOOT_LOWEST: u64 = 0x1000;
/// The kernel's command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Where the protected-mode part of a bzImage is loaded.
pub const KERNEL: u64 = EXTENDED;

/// Where a processor starts after INIT, in real mode (Intel SDM 3A, 9.1.4), and where the PC's
/// BIOS has its entry below 1 MiB.
pub const RESET_VECTORS: [u64; 2] = [0xffff_fff0, 0xf_fff0];
/// Memory for the first of them, where no firmware lies there.
pub const RESET_PAGE: (u64, u64) = (0xffff_f000, 0x1000);

/// KVM's identity map page (Intel without unrestricted guest), below the largest firmware.
pub const IDENTITY_MAP: u64 = 0xfeff_c000;
/// KVM's three pages for a task state segment.
pub const TSS: u64 = 0xfeff_d000;
/// Bytes of both together.
pub const KVM_PAGES_LEN: u64 = 0x4000;

/// An address or a length where a structure has 32 bits for it.
///
/// # Panics
/// If it lies beyond 4 GiB: the caller has it in memory below the PCI hole.
pub fn below_4g(value: u64) -> u32 {
    u32::try_from(value).expect("memory below the PCI hole")
}

/// Bytes of memory below the PCI hole, for a guest with `size` bytes; the others lie above it.
pub fn low_memory(size: u64) -> u64 {
    size.min(LOW_MEMORY_LIMIT)
}

/// Ranges of guest memory for programs, as address and length in bytes, for a guest with `size`
/// bytes.
pub fn memory_ranges(size: u64) -> Vec<(u64, u64)> {
    let low = low_memory(size);
    let mut ranges = vec![(0, low)];
    if size > low {
        ranges.push((HIGH_MEMORY, size - low));
    }
    ranges
}

/// What a range of the memory map is (ACPI 6.5, 15: address range types).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum RangeKind {
    /// For the operating system.
    Usable = 1,
    /// Not for it.
    Reserved = 2,
}

/// The map that INT 15h E820h would give: address, length, kind.
pub fn e820(size: u64) -> Vec<(u64, u64, RangeKind)> {
    let mut map = vec![
        (0, EBDA, RangeKind::Usable),
        (EBDA, 0xa_0000 - EBDA, RangeKind::Reserved),
        (ACPI, ACPI_LEN, RangeKind::Reserved),
    ];
    for (start, len) in memory_ranges(size) {
        let skipped = if start == 0 { EXTENDED.min(len) } else { 0 };
        if len > skipped {
            map.push((start + skipped, len - skipped, RangeKind::Usable));
        }
    }
    map
}

#[cfg(test)]
mod tests;
