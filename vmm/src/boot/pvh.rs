//! What is passed to a kernel with a PVH entry (Xen, `docs/misc/pvh.pandoc` and
//! `public/arch-x86/hvm/start_info.h`).

use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::Placed;
use crate::layout;

const MAGIC: u32 = 0x336e_c578;
/// The first version with a memory map.
const VERSION: u32 = 1;

/// Writes it for a guest with `size` bytes of memory; its address, for EBX.
pub(super) fn write(
    memory: &GuestMemoryMmap,
    size: u64,
    modules: &[Placed],
    rsdp: u64,
) -> Result<u64, GuestMemoryError> {
    let info = layout::ZERO_PAGE;
    let modules_at = info + size_of::<hvm_start_info>() as u64;
    let map_at = modules_at + (modules.len() * size_of::<hvm_modlist_entry>()) as u64;
    let map = layout::e820(size);
    let start = hvm_start_info {
        magic: MAGIC,
        version: VERSION,
        flags: 0,
        nr_modules: u32::try_from(modules.len()).expect("modules are few"),
        modlist_paddr: modules_at,
        cmdline_paddr: layout::CMDLINE,
        rsdp_paddr: rsdp,
        memmap_paddr: map_at,
        memmap_entries: u32::try_from(map.len()).expect("the map has few entries"),
        reserved: 0,
    };
    memory.write_slice(start.as_slice(), GuestAddress(info))?;
    for (at, module) in (modules_at..)
        .step_by(size_of::<hvm_modlist_entry>())
        .zip(modules)
    {
        let entry = hvm_modlist_entry {
            paddr: module.start,
            size: module.len,
            ..Default::default()
        };
        memory.write_slice(entry.as_slice(), GuestAddress(at))?;
    }
    for (at, (addr, size, kind)) in (map_at..)
        .step_by(size_of::<hvm_memmap_table_entry>())
        .zip(map)
    {
        let entry = hvm_memmap_table_entry {
            addr,
            size,
            type_: kind as u32,
            reserved: 0,
        };
        memory.write_slice(entry.as_slice(), GuestAddress(at))?;
    }
    Ok(info)
}
