//! The zero page: `struct boot_params`.

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{ByteValued, Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use super::{Placed, kernel::Loaded};
use crate::layout::{self, below_4g};

/// A boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;

/// Writes the zero page for a guest with `size` bytes of memory.
pub(super) fn write(
    memory: &GuestMemoryMmap,
    size: u64,
    loaded: &Loaded,
    initrd: Option<Placed>,
    rsdp: u64,
) -> Result<(), GuestMemoryError> {
    let params = build(size, loaded, initrd, rsdp);
    memory.write_slice(params.as_slice(), GuestAddress(layout::ZERO_PAGE))
}

/// Builds it.
fn build(size: u64, loaded: &Loaded, initrd: Option<Placed>, rsdp: u64) -> boot_params {
    let mut params = boot_params {
        hdr: loaded.header,
        acpi_rsdp_addr: rsdp,
        ..Default::default()
    };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = below_4g(layout::CMDLINE);
    // Low memory ends below 4 GiB, and an initrd goes into low memory.
    params.hdr.ramdisk_image = initrd.map_or(0, |initrd| below_4g(initrd.start));
    params.hdr.ramdisk_size = initrd.map_or(0, |initrd| below_4g(initrd.len));
    let map = layout::e820(size);
    for (entry, (addr, size, kind)) in params.e820_table.iter_mut().zip(&map) {
        *entry = boot_e820_entry {
            addr: *addr,
            size: *size,
            r#type: *kind as u32,
        };
    }
    params.e820_entries = u8::try_from(map.len()).expect("the map has few entries");
    params
}
