//! Kernels that are started in real mode, by firmware: `Documentation/arch/x86/boot.rst`, "The
//! Linux/x86 Boot Protocol", which iPXE, memdisk and GRUB's core follow, too.
//!
//! Firmware finds an option ROM of ours that offers to boot. When its turn has come, it has
//! `fw_cfg` copy the kernel's parts to their places, and jumps there.

use std::{io, path::Path};

use linux_loader::loader::bootparam::setup_header;
use strata_devices::{
    checksum::checksum,
    fw_cfg::{FwCfg, FwCfgItems},
};
use vm_memory::ByteValued;

use super::{
    BootError, Module, Source, check_length, check_no_nul,
    kernel::{self, not_a_kernel},
    page_align, place_below, too_small,
};
use crate::layout::{self, below_4g};

/// Oldest protocol that has the command line where it is put here.
const OLDEST: u16 = 0x0202;
/// Protocols from which on the header has these fields.
const HAS_INITRD_MAX: u16 = 0x0203;
const HAS_CMDLINE_SIZE: u16 = 0x0206;
/// What older ones take.
const INITRD_MAX: u64 = 0x37ff_ffff;
const CMDLINE_MAX: u32 = 255;
/// In `loadflags`: the kernel's main part belongs to 1 MiB, and the heap's end is set.
const LOADED_HIGH: u8 = 1 << 0;
const CAN_USE_HEAP: u8 = 1 << 7;
/// A boot loader without a number of its own.
const LOADER: u8 = 0xff;
const SECTOR: usize = 512;
/// Sectors before the main part where the header says 0.
const DEFAULT_SECTORS: u8 = 4;

/// Where the first part lies, its segment, and the stack's top in that.
const SETUP: u64 = (SETUP_SEGMENT as u64) << 4;
const SETUP_SEGMENT: u16 = 0x1000;
const STACK: u16 = 0xfff0;
/// End of the heap in that segment, less 0x200, as the protocol counts.
const HEAP_END: u16 = 0xfe00;
/// The first part's length at most: some of the segment is for heap and stack.
const MAX_SETUP: usize = 0xe000;
/// What firmware keeps for itself at the end of memory, and more.
const FIRMWARE_OWN: u64 = 1 << 20;

/// The parts of a kernel, with its header filled in.
pub struct RealModeKernel {
    setup: Vec<u8>,
    image: Vec<u8>,
    cmdline: Vec<u8>,
    initrd: Vec<u8>,
    initrd_at: u64,
}

impl RealModeKernel {
    /// Where firmware finds the option ROM among its files.
    pub const ROM: &str = "genroms/strata-kernel.rom";

    /// Whether this kernel can only be started so.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn is_needed(kernel: &Path) -> Result<bool, BootError> {
        let header = kernel::setup_header(&Source::open("kernel", kernel)?)?;
        Ok(header.is_some_and(|header| header.version < kernel::HEADER_VERSION))
    }

    /// Reads the files for a guest with `size` bytes of memory.
    ///
    /// # Errors
    /// [`BootError`] if one cannot be read, this is no such kernel, or something does not fit.
    pub fn open(
        kernel: &Path,
        initrd: Option<&Path>,
        cmdline: &str,
        size: u64,
    ) -> Result<Self, BootError> {
        let kernel = Source::open("kernel", kernel)?;
        let header = kernel::setup_header(&kernel)?.ok_or_else(|| {
            let why = "with --firmware a kernel is started in real mode, which a bzImage can be";
            not_a_kernel(&kernel, why)
        })?;
        let mut setup = read_all(&kernel)?;
        let image = split_off_image(&mut setup, &kernel, &header)?;
        let cmdline = cmdline_for(&header, cmdline)?;
        let initrd = initrd.map(Module::open).transpose()?;
        let initrd = initrd.map_or(Ok(Vec::new()), |module| read_all(&module.source))?;
        let initrd_at = place_initrd(&header, image.len() as u64, initrd.len() as u64, size)?;
        let mut parts = Self {
            setup,
            image,
            cmdline,
            initrd,
            initrd_at,
        };
        parts.fill_in(header);
        Ok(parts)
    }

    /// Writes into the header what a boot loader says there.
    fn fill_in(&mut self, mut header: setup_header) {
        header.type_of_loader = LOADER;
        header.loadflags |= CAN_USE_HEAP;
        header.heap_end_ptr = HEAP_END;
        header.cmd_line_ptr = below_4g(layout::CMDLINE);
        header.ramdisk_image = below_4g(self.initrd_at);
        header.ramdisk_size = below_4g(self.initrd.len() as u64);
        // A header of an old protocol ends early: only the fields up to there are its own.
        let fields = &header.as_slice()[..FIELDS_END - HEADER_AT];
        self.setup[HEADER_AT..FIELDS_END].copy_from_slice(fields);
    }

    fn requests(&self) -> [(u16, u64, usize); REQUESTS as usize] {
        [
            (FwCfgItems::SETUP, SETUP, self.setup.len()),
            (FwCfgItems::CMDLINE, layout::CMDLINE, self.cmdline.len()),
            (FwCfgItems::KERNEL, layout::KERNEL, self.image.len()),
            (FwCfgItems::INITRD, self.initrd_at, self.initrd.len()),
        ]
    }

    /// Adds the parts, and the option ROM that asks for them.
    pub fn describe(self, items: &mut FwCfgItems) {
        let rom = OptionRom {
            requests: self.requests(),
        };
        items.add_file(Self::ROM, rom.bytes());
        items.add_item(FwCfgItems::SETUP, self.setup);
        items.add_item(FwCfgItems::CMDLINE, self.cmdline);
        items.add_item(FwCfgItems::KERNEL, self.image);
        items.add_item(FwCfgItems::INITRD, self.initrd);
    }
}

/// Where the header begins.
const HEADER_AT: usize = 0x1f1;
/// First byte behind `cmd_line_ptr`, the last field that is filled in here.
const FIELDS_END: usize = 0x22c;

fn read_all(source: &Source) -> Result<Vec<u8>, BootError> {
    let mut bytes = Vec::new();
    let read = io::Read::read_to_end(&mut &source.file, &mut bytes);
    read.map_err(|error| source.error(error))?;
    Ok(bytes)
}

/// Leaves the first part, which runs in real mode, in `file`, and returns the main part.
fn split_off_image(
    file: &mut Vec<u8>,
    kernel: &Source,
    header: &setup_header,
) -> Result<Vec<u8>, BootError> {
    let version = header.version;
    if version < OLDEST || header.loadflags & LOADED_HIGH == 0 {
        let (major, minor) = (version >> 8, version & 0xff);
        let why = format!(
            "its boot protocol, {major}.{minor:02}, is too old, or has it loaded below 1 MiB; \
             start it from a disk"
        );
        return Err(not_a_kernel(kernel, why));
    }
    let sectors = match header.setup_sects {
        0 => DEFAULT_SECTORS,
        sectors => sectors,
    };
    let len = (usize::from(sectors) + 1) * SECTOR;
    if len > MAX_SETUP {
        let why = format!("its part for real mode has {len} bytes, more than {MAX_SETUP}");
        return Err(not_a_kernel(kernel, why));
    }
    if len > file.len() {
        return Err(not_a_kernel(kernel, "it is cut off"));
    }
    Ok(file.split_off(len))
}

/// The command line with the NUL at its end.
fn cmdline_for(header: &setup_header, cmdline: &str) -> Result<Vec<u8>, BootError> {
    check_no_nul(cmdline)?;
    let limit = match header.version {
        HAS_CMDLINE_SIZE.. => header.cmdline_size,
        _ => CMDLINE_MAX,
    };
    check_length(cmdline, limit as usize)?;
    Ok([cmdline.as_bytes(), &[0]].concat())
}

/// Where an initrd of `len` bytes goes: as high as the kernel and firmware allow.
fn place_initrd(header: &setup_header, image: u64, len: u64, size: u64) -> Result<u64, BootError> {
    let end = match header.version {
        kernel::HEADER_VERSION.. => kernel::end_of(header, image),
        _ => layout::KERNEL.saturating_add(image),
    };
    let most = match header.version {
        HAS_INITRD_MAX.. => header.initrd_addr_max.into(),
        _ => INITRD_MAX,
    };
    let top = layout::low_memory(size)
        .saturating_sub(FIRMWARE_OWN)
        .min(most.saturating_add(1));
    place_below(top, len, end).ok_or_else(|| {
        let needed = page_align(end).saturating_add(page_align(len));
        too_small(size, needed.saturating_add(FIRMWARE_OWN))
    })
}

/// An option ROM that boots (Plug and Play BIOS specification 1.0A, 3.1 and 3.2).
struct OptionRom {
    /// Items, where each goes, and its length.
    requests: [(u16, u64, usize); REQUESTS as usize],
}

const REQUESTS: u8 = 4;
const ROM_SECTORS: u8 = 1;
const ROM_LEN: usize = ROM_SECTORS as usize * SECTOR;
/// Offsets in it.
const INIT: usize = 0x03;
const HEADER_POINTER: usize = 0x1a;
const HEADER: u8 = 0x20;
const PRODUCT: u8 = 0x40;
const BOOT: u8 = 0x60;
const REQUEST_TABLE: u16 = 0x100;
/// Length of the header in units of 16 bytes.
const HEADER_UNITS: u8 = 2;
/// Offsets in the header.
const PRODUCT_POINTER: usize = 0x10;
const BOOT_POINTER: usize = 0x1a;
const CHECKSUM: usize = 0x09;

/// The name in firmware's list of what can be booted.
const PRODUCT_NAME: &[u8] = b"kernel of --kernel\0";
/// Nothing is to be done at its start: a far return.
const RETF: u8 = 0xcb;
/// Where the requests lie when they are carried out: in memory that is written to.
const REQUESTS_AT: u16 = 0x7c00;

/// Copies the requests to [`REQUESTS_AT`], has each carried out, and enters the kernel with all
/// segments at [`SETUP`].
///
/// ```text
///     cli
///     cld
///     push cs
///     pop ds
///     mov ax, REQUESTS_AT >> 4
///     mov es, ax
///     mov si, REQUEST_TABLE
///     xor di, di
///     mov cx, REQUESTS * 8
///     rep movsw
///     mov ebx, REQUESTS_AT
///     mov cl, REQUESTS
///     mov dx, FwCfg::DMA_PORT
/// 1:  mov eax, ebx
///     bswap eax
///     out dx, eax
///     add bx, 16
///     loop 1b
///     mov ax, SETUP_SEGMENT
///     mov ds, ax
///     mov es, ax
///     mov fs, ax
///     mov gs, ax
///     mov ss, ax
///     mov sp, STACK
///     jmp SETUP_SEGMENT + 0x20:0
/// ```
#[rustfmt::skip]
const CODE: [u8; 64] = {
    let [table, requests, at] = [
        (REQUESTS_AT >> 4).to_le_bytes(),
        REQUEST_TABLE.to_le_bytes(),
        REQUESTS_AT.to_le_bytes(),
    ];
    let [port, segment, entry, stack] = [
        FwCfg::DMA_PORT.to_le_bytes(),
        SETUP_SEGMENT.to_le_bytes(),
        (SETUP_SEGMENT + 0x20).to_le_bytes(),
        STACK.to_le_bytes(),
    ];
    [
        0xfa, 0xfc, 0x0e, 0x1f,
        0xb8, table[0], table[1], 0x8e, 0xc0,
        0xbe, requests[0], requests[1], 0x31, 0xff,
        0xb9, REQUESTS * 8, 0, 0xf3, 0xa5,
        0x66, 0xbb, at[0], at[1], 0, 0,
        0xb1, REQUESTS,
        0xba, port[0], port[1],
        0x66, 0x89, 0xd8, 0x66, 0x0f, 0xc8, 0x66, 0xef,
        0x83, 0xc3, 0x10, 0xe2, 0xf3,
        0xb8, segment[0], segment[1],
        0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xe0, 0x8e, 0xe8, 0x8e, 0xd0,
        0xbc, stack[0], stack[1],
        0xea, 0, 0, entry[0], entry[1],
    ]
};

impl OptionRom {
    fn bytes(&self) -> Vec<u8> {
        let mut rom = vec![0; ROM_LEN];
        let mut put = |at: usize, bytes: &[u8]| rom[at..at + bytes.len()].copy_from_slice(bytes);
        let pointer = |to: u8| u16::from(to).to_le_bytes();
        let header = usize::from(HEADER);
        put(0, &[0x55, 0xaa, ROM_SECTORS]);
        put(INIT, &[RETF]);
        put(HEADER_POINTER, &pointer(HEADER));
        put(header, b"$PnP\x01");
        put(header + 5, &[HEADER_UNITS]);
        put(header + PRODUCT_POINTER, &pointer(PRODUCT));
        put(header + BOOT_POINTER, &pointer(BOOT));
        put(PRODUCT.into(), PRODUCT_NAME);
        put(BOOT.into(), &CODE);
        let wanted = self.requests.iter().filter(|(.., len)| *len > 0);
        for (index, &(item, address, len)) in wanted.enumerate() {
            let at = usize::from(REQUEST_TABLE) + index * FwCfg::REQUEST_LEN;
            put(
                at,
                &FwCfg::request_to_read(item, address, below_4g(len as u64)),
            );
        }
        rom[header + CHECKSUM] = checksum(&rom[header..][..usize::from(HEADER_UNITS) * 16]);
        rom[ROM_LEN - 1] = checksum(&rom);
        rom
    }
}

#[cfg(test)]
mod tests;
