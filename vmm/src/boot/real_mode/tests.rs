use std::{path::Path, sync::Arc};

use strata_devices::bus::BusDevice;
use tempfile::TempPath;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;
use crate::boot::tests::file;

const MIB: u64 = 1 << 20;
/// Where a header of protocol 2.03 ends.
const HEADER_END: usize = 0x230;

/// As memdisk has it.
fn header() -> setup_header {
    setup_header {
        setup_sects: 3,
        boot_flag: 0xaa55,
        header: 0x5372_6448,
        version: 0x203,
        loadflags: LOADED_HIGH,
        initrd_addr_max: 0xffff_ffff,
        ..Default::default()
    }
}

/// A kernel of four sectors for real mode, and a main part of 5000 bytes.
fn kernel(header: setup_header) -> TempPath {
    let mut bytes = vec![0x11; 2048];
    let raw = header.as_slice();
    // What follows is code: its header is short.
    let raw = &raw[..HEADER_END - 0x1f1];
    bytes[0x1f1..HEADER_END].copy_from_slice(raw);
    bytes.extend([0x22; 5000]);
    file(&bytes)
}

fn open(
    kernel: &Path,
    initrd: Option<&Path>,
    cmdline: &str,
    size: u64,
) -> Result<RealModeKernel, BootError> {
    RealModeKernel::open(kernel, initrd, cmdline, size)
}

fn why(result: Result<RealModeKernel, BootError>) -> String {
    result.err().unwrap().to_string()
}

#[test]
fn the_rom_has_everything_copied_to_its_place() {
    let (kernel, initrd) = (kernel(header()), file(&[0x33; 3000]));
    let parts = open(&kernel, Some(&initrd), "a=b", 64 * MIB).unwrap();
    let at = parts.initrd_at;
    assert_eq!(at, 63 * MIB - 4096);
    let mut items = FwCfgItems::new(64 * MIB, 1);
    let rom = OptionRom {
        requests: parts.requests(),
    };
    parts.describe(&mut items);
    let range = (GuestAddress(0), 64 << 20);
    let memory = Arc::new(GuestMemoryMmap::from_ranges(&[range]).unwrap());
    let mut device = FwCfg::new(items, memory.clone());

    // What its code does.
    let requests = &rom.bytes()[REQUEST_TABLE.into()..][..usize::from(REQUESTS) * 16];
    let table = GuestAddress(REQUESTS_AT.into());
    memory.write_slice(requests, table).unwrap();
    for index in 0..u32::from(REQUESTS) {
        let address = u32::from(REQUESTS_AT) + 16 * index;
        device.write(8, &address.to_be_bytes());
    }

    let bytes = |address, len| {
        let mut bytes = vec![0; len];
        let at = GuestAddress(address);
        memory.read_slice(&mut bytes, at).unwrap();
        bytes
    };
    let setup = bytes(SETUP, 2049);
    assert_eq!(setup[..0x1f1], [0x11; 0x1f1]);
    assert_eq!(
        setup[HEADER_END..],
        [&[0x11; 2048 - HEADER_END][..], &[0]].concat()
    );
    assert_eq!(setup[0x210], LOADER);
    assert_eq!(setup[0x211], LOADED_HIGH | CAN_USE_HEAP);
    let number = |at: usize| u32::from_le_bytes(setup[at..at + 4].try_into().unwrap());
    let said = [0x218, 0x21c, 0x228].map(number).map(u64::from);
    assert_eq!(said, [at, 3000, layout::CMDLINE]);
    assert_eq!(bytes(layout::CMDLINE, 4), b"a=b\0");
    assert_eq!(
        bytes(layout::KERNEL, 5001),
        [&[0x22; 5000][..], &[0]].concat()
    );
    assert_eq!(bytes(at, 3001), [&[0x33; 3000][..], &[0]].concat());
}

#[test]
fn the_rom_is_one_that_boots() {
    let kernel = kernel(header());
    let parts = open(&kernel, None, "", 64 * MIB).unwrap();
    let rom = OptionRom {
        requests: parts.requests(),
    };
    let bytes = rom.bytes();
    let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    assert_eq!((bytes.len(), &bytes[..3]), (512, &[0x55, 0xaa, 1][..]));
    assert_eq!(sum(&bytes), 0);
    assert_eq!(u64::from(FwCfg::DMA_PORT), FwCfg::BASE + 8);
    let number = |at: usize| usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let header = number(0x1a);
    assert_eq!(bytes[header..header + 6], *b"$PnP\x01\x02");
    assert_eq!(sum(&bytes[header..header + 32]), 0);
    assert_eq!(bytes[number(header + 0x1a)..][..CODE.len()], CODE);
    assert!(bytes[number(header + 0x10)..].starts_with(b"kernel"));
    // Without an initrd there is one request less.
    let last = usize::from(REQUEST_TABLE) + 3 * 16;
    assert_eq!(bytes[last..last + 16], [0; 16]);
}

#[test]
fn only_old_kernels_need_it() {
    let is_needed = |version| {
        let header = setup_header {
            version,
            ..header()
        };
        RealModeKernel::is_needed(&kernel(header)).unwrap()
    };
    assert_eq!(
        [0x203, 0x207, 0x20a, 0x20f].map(is_needed),
        [true, true, false, false]
    );
    assert!(!RealModeKernel::is_needed(&file(b"short")).unwrap());
    assert!(RealModeKernel::is_needed(Path::new("/nonexistent")).is_err());
}

#[test]
fn what_cannot_be_started_so_is_refused() {
    let text = file(&[b'x'; 4096]);
    assert!(why(open(&text, None, "", 64 * MIB)).contains("which a bzImage can be"));
    for (header, wanted) in [
        (
            setup_header {
                version: 0x201,
                ..header()
            },
            "its boot protocol, 2.01, is too old",
        ),
        (
            setup_header {
                loadflags: 0,
                ..header()
            },
            "below 1 MiB",
        ),
        (
            setup_header {
                setup_sects: 200,
                ..header()
            },
            "102912 bytes",
        ),
        (
            setup_header {
                setup_sects: 20,
                ..header()
            },
            "cut off",
        ),
    ] {
        let text = why(open(&kernel(header), None, "", 64 * MIB));
        assert!(text.contains(wanted), "{text}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let old = kernel(header());
    assert!(open(&old, None, &"a".repeat(255), 64 * MIB).is_ok());
    let text = why(open(&old, None, &"a".repeat(256), 64 * MIB));
    assert!(text.contains("at most 255"), "{text}");
    let newer = kernel(setup_header {
        version: 0x207,
        cmdline_size: 300,
        ..header()
    });
    assert!(open(&newer, None, &"a".repeat(300), 64 * MIB).is_ok());
    assert!(open(&newer, None, "a\0b", 64 * MIB).is_err());
    let initrd = file(&vec![0; 6 << 20]);
    let text = why(open(&old, Some(&initrd), "", 8 * MIB));
    assert!(text.contains("at least --memory 9M"), "{text}");
    assert!(open(&old, Some(&initrd), "", 9 * MIB).is_ok());
    let limited = kernel(setup_header {
        initrd_addr_max: 16 * MIB as u32 - 1,
        ..header()
    });
    assert_eq!(
        open(&limited, Some(&initrd), "", 64 * MIB)
            .unwrap()
            .initrd_at,
        10 * MIB
    );
}
