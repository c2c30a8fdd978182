//! Which linear addresses the guest's kernel has for which memory: its page tables, as its
//! processors use them (Intel SDM 3A, 4.5).

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::machine::Registers;

const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_LA57: u64 = 1 << 12;
const EFER_LMA: u64 = 1 << 10;

const PRESENT: u64 = 1;
/// The entry names a page, not a table.
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const ENTRIES: usize = 512;

/// Tables that are looked at: those of 16 GiB in pages of 4 KiB.
const MAX_TABLES: usize = 8192;
/// Mappings that are kept; an ELF file counts its program headers in 16 bits.
const MAX_MAPPINGS: usize = 60_000;

/// A run of linear addresses that memory lies behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mapping {
    pub linear: u64,
    pub physical: u64,
    /// Bytes.
    pub len: u64,
}

/// The mappings of the upper half of the address space, in order: that of the processor which sees
/// most, since one in user space may hide the kernel.
pub(super) fn of_kernel(memory: &GuestMemoryMmap, cpus: &[Registers]) -> Vec<Mapping> {
    let seen = |cpu: &Registers| {
        let mut walk = Walk {
            memory,
            tables_left: MAX_TABLES,
            mappings: Vec::new(),
        };
        walk.start(cpu);
        walk.mappings
    };
    let all = cpus.iter().map(seen);
    let bytes = |mappings: &Vec<Mapping>| mappings.iter().map(|m| u128::from(m.len)).sum::<u128>();
    all.max_by_key(bytes).unwrap_or_default()
}

struct Walk<'a> {
    memory: &'a GuestMemoryMmap,
    tables_left: usize,
    mappings: Vec<Mapping>,
}

impl Walk<'_> {
    fn start(&mut self, cpu: &Registers) {
        let system = &cpu.system;
        let long_mode =
            system.cr0 & CR0_PG != 0 && system.cr4 & CR4_PAE != 0 && system.efer & EFER_LMA != 0;
        if long_mode {
            let levels = if system.cr4 & CR4_LA57 != 0 { 5 } else { 4 };
            self.table(system.cr3 & ADDRESS, levels, None);
        }
    }

    /// Goes through the table at `address`. Its entries' addresses continue `upper`; without that
    /// it is the first one, of which the upper half is wanted.
    fn table(&mut self, address: u64, level: u32, upper: Option<u64>) {
        if self.tables_left == 0 || self.mappings.len() >= MAX_MAPPINGS {
            return;
        }
        self.tables_left -= 1;
        let mut bytes = [0; ENTRIES * 8];
        let read = self.memory.read_slice(&mut bytes, GuestAddress(address));
        if read.is_err() {
            return;
        }
        let shift = 12 + 9 * (level - 1);
        let first = if upper.is_some() { 0 } else { ENTRIES / 2 };
        for (index, entry) in bytes.chunks_exact(8).enumerate().skip(first) {
            let entry = u64::from_le_bytes(entry.try_into().expect("eight bytes"));
            if entry & PRESENT == 0 {
                continue;
            }
            // Above the addresses that there are, all bits are as the highest one.
            let above = upper.unwrap_or(u64::MAX << (shift + 8));
            let linear = above | (index as u64) << shift;
            let is_page = level == 1 || level <= 3 && entry & LARGE != 0;
            if is_page {
                let len = 1 << shift;
                self.map(linear, entry & ADDRESS & !(len - 1), len);
            } else {
                self.table(entry & ADDRESS, level - 1, Some(linear));
            }
        }
    }

    /// Keeps what is memory of a mapping.
    fn map(&mut self, linear: u64, physical: u64, len: u64) {
        let Some(region) = self.memory.find_region(GuestAddress(physical)) else {
            return;
        };
        let end = region.start_addr().0 + region.len();
        let len = len.min(end - physical);
        if let Some(last) = self.mappings.last_mut()
            && last.linear.checked_add(last.len) == Some(linear)
            && last.physical + last.len == physical
            && physical != region.start_addr().0
        {
            last.len += len;
        } else if self.mappings.len() < MAX_MAPPINGS {
            self.mappings.push(Mapping {
                linear,
                physical,
                len,
            });
        }
    }
}

#[cfg(test)]
mod tests;
