use std::io::Write;

use linux_loader::loader::bootparam::{boot_params, setup_header};
use tempfile::{NamedTempFile, TempPath};
use vm_memory::{ByteValued, GuestMemoryBackend};

use super::*;

const MIB: u64 = 1 << 20;
const RSDP: u64 = 0xe_0000;

pub(super) fn file(bytes: &[u8]) -> TempPath {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file.into_temp_path()
}

/// A header as current kernels have it, before a test changes it.
fn header() -> setup_header {
    setup_header {
        setup_sects: 1,
        header: 0x5372_6448,
        version: 0x20f,
        loadflags: 1,
        xloadflags: 1,
        initrd_addr_max: 0x7fff_ffff,
        cmdline_size: 64,
        pref_address: 16 * MIB,
        init_size: 8 << 20,
        ..Default::default()
    }
}

/// A bzImage with `header` and a protected-mode part of two pages of 0x90.
fn bzimage(header: setup_header) -> TempPath {
    let mut bytes = vec![0; 1024];
    let raw = header.as_slice();
    bytes[0x1f1..0x1f1 + raw.len()].copy_from_slice(raw);
    bytes.extend([0x90; 8192]);
    file(&bytes)
}

/// An ELF file with one segment of `bytes` at `address`, `memory` bytes long in memory.
fn elf(machine: u16, address: u64, bytes: &[u8], memory: u64) -> TempPath {
    let mut out = vec![0; 64 + 56];
    let mut put = |at: usize, value: &[u8]| out[at..at + value.len()].copy_from_slice(value);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2u16.to_le_bytes());
    put(18, &machine.to_le_bytes());
    put(20, &1u32.to_le_bytes());
    put(24, &address.to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(52, &64u16.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &1u16.to_le_bytes());
    put(64, &1u32.to_le_bytes());
    put(64 + 8, &120u64.to_le_bytes());
    put(64 + 24, &address.to_le_bytes());
    put(64 + 32, &(bytes.len() as u64).to_le_bytes());
    put(64 + 40, &memory.to_le_bytes());
    out.extend(bytes);
    file(&out)
}

fn memory(size: u64) -> GuestMemoryMmap {
    let ranges = [(0, size), layout::RESET_PAGE];
    let ranges = ranges.map(|(start, len)| (GuestAddress(start), len as usize));
    GuestMemoryMmap::from_ranges(&ranges).unwrap()
}

fn load(
    kernel: &Path,
    initrd: Option<&Path>,
    cmdline: &str,
    size: u64,
) -> Result<Guest, BootError> {
    let memory = memory(size);
    let entry = BootSource::open(kernel, initrd, cmdline)?.load(&memory, size, RSDP)?;
    Ok(Guest { memory, entry })
}

struct Guest {
    memory: GuestMemoryMmap,
    entry: Entry,
}

impl Guest {
    fn params(&self) -> boot_params {
        let mut params = boot_params::default();
        let at = GuestAddress(layout::ZERO_PAGE);
        self.memory.read_slice(params.as_mut_slice(), at).unwrap();
        params
    }

    fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }
}

#[test]
fn a_bzimage_is_loaded_with_its_parameters() {
    let initrd = vec![7; 5000];
    let kernel = bzimage(header());
    let guest = load(&kernel, Some(&file(&initrd)), "console=ttyS0", 64 * MIB).unwrap();
    assert_eq!(guest.entry, Entry::LongMode(layout::KERNEL + 0x200));
    assert_eq!(
        guest.bytes(layout::KERNEL, 8193),
        [[0x90; 8192].as_slice(), &[0]].concat()
    );
    assert_eq!(guest.bytes(layout::CMDLINE, 14), b"console=ttyS0\0");

    let params = guest.params();
    let (at, len) = (params.hdr.ramdisk_image, params.hdr.ramdisk_size);
    assert_eq!(
        u64::from(at),
        64 * MIB - 8192,
        "as high as it fits, on a page"
    );
    assert_eq!(guest.bytes(at.into(), len as usize), initrd);
    let (cmdline, rsdp) = (params.hdr.cmd_line_ptr, params.acpi_rsdp_addr);
    assert_eq!((u64::from(cmdline), rsdp), (layout::CMDLINE, RSDP));
    assert_eq!(params.hdr.type_of_loader, 0xff);
    assert_eq!(
        usize::from(params.e820_entries),
        layout::e820(64 * MIB).len()
    );
    let first = params.e820_table[0];
    assert_eq!((first.addr, first.size), (0, layout::EBDA));
}

#[test]
fn the_end_of_conventional_memory_is_where_a_bios_says_it() {
    for kernel in [bzimage(header()), elf(62, 16 * MIB, b"kernel", MIB)] {
        let guest = load(&kernel, None, "", 64 * MIB).unwrap();
        let number = |at| u16::from_le_bytes(guest.bytes(at, 2).try_into().unwrap());
        assert_eq!(u64::from(number(0x40e)) << 4, layout::EBDA);
        assert_eq!(u64::from(number(0x413)) << 10, layout::EBDA);
    }
}

#[test]
fn an_initrd_stays_below_the_kernel_s_limit() {
    let limited = setup_header {
        initrd_addr_max: 40 * MIB as u32 - 1,
        ..header()
    };
    let guest = load(&bzimage(limited), Some(&file(&[7; 4096])), "", 64 * MIB).unwrap();
    let at = guest.params().hdr.ramdisk_image;
    assert_eq!(u64::from(at), 40 * MIB - 4096);
}

#[test]
fn without_an_initrd_there_is_none() {
    let guest = load(&bzimage(header()), None, "", 64 * MIB).unwrap();
    let params = guest.params();
    let (at, len) = (params.hdr.ramdisk_image, params.hdr.ramdisk_size);
    assert_eq!((at, len), (0, 0));
}

#[test]
fn memory_must_hold_kernel_and_initrd() {
    let kernel = bzimage(header());
    let need = |initrd: &[u8], size| match load(&kernel, Some(&file(initrd)), "", size) {
        Err(BootError::TooSmall { have, need }) => Some((have, need)),
        Err(error) => panic!("{error}"),
        Ok(_) => None,
    };
    assert_eq!(need(&[7; 4096], 24 * MIB), Some((24, 25)));
    assert_eq!(need(&[7; 4096], 25 * MIB), None);
    assert_eq!(need(&vec![7; 2 << 20], 25 * MIB), Some((25, 26)));
}

#[test]
fn an_absurd_kernel_size_is_too_large_not_an_overflow() {
    let huge = setup_header {
        pref_address: u64::MAX,
        init_size: u32::MAX,
        ..header()
    };
    let result = load(&bzimage(huge), None, "", 64 * MIB);
    assert!(matches!(result, Err(BootError::TooSmall { .. })));
}

#[test]
fn a_command_line_has_the_kernel_s_limit() {
    let kernel = bzimage(header());
    assert!(load(&kernel, None, &"a".repeat(64), 64 * MIB).is_ok());
    let error = load(&kernel, None, &"a".repeat(65), 64 * MIB)
        .err()
        .unwrap();
    assert!(error.to_string().contains("65 bytes"), "{error}");
    assert!(error.to_string().contains("at most 64"), "{error}");
}

#[test]
fn what_is_no_kernel_is_refused_at_once() {
    let old = setup_header {
        version: 0x0203,
        ..header()
    };
    let text = vec![b'x'; 4096];
    for (kernel, wanted) in [
        (file(b""), "neither a bzImage"),
        (file(b"\x7fEL"), "neither a bzImage"),
        (file(&text), "neither a bzImage"),
        (
            bzimage(old),
            "it needs a BIOS: its boot protocol, 2.03, has it started in real mode",
        ),
        (file(b"\x1f\x8b\x08 and so on"), "gunzip"),
        (file(b"\x7fELF"), "is not a kernel"),
        (elf(40, 16 * MIB, b"x", 1), "not one for x86-64"),
        (elf(62, 0x40_0000, b"x", 1), ""),
        (elf(62, 4096, b"x", 1), "above 1 MiB"),
    ] {
        let error = BootSource::open(&kernel, None, "").err();
        match error {
            None => assert_eq!(wanted, ""),
            Some(error) => assert!(error.to_string().contains(wanted), "{error}"),
        }
    }
}

#[test]
fn an_elf_kernel_starts_at_its_entry_point() {
    let kernel = elf(62, 16 * MIB, b"kernel", 4 * MIB);
    let guest = load(&kernel, Some(&file(&[7; 100])), "quiet", 64 * MIB).unwrap();
    assert_eq!(guest.entry, Entry::LongMode(16 * MIB));
    assert_eq!(guest.bytes(16 * MIB, 6), b"kernel");
    let magic = guest.params().hdr.header;
    assert_eq!(magic, 0x5372_6448);
    let result = load(&kernel, None, "", 18 * MIB);
    assert!(matches!(
        result,
        Err(BootError::TooSmall { have: 18, need: 20 })
    ));
}

#[test]
fn missing_files_are_named() {
    let missing = Path::new("/nonexistent/vmlinuz");
    let error = BootSource::open(missing, None, "").err().unwrap();
    assert_eq!(
        error.to_string(),
        "could not open the kernel '/nonexistent/vmlinuz': No such file or directory (os error 2)"
    );
    let kernel = bzimage(header());
    let error = BootSource::open(&kernel, Some(Path::new("/tmp")), "").err();
    let text = error.unwrap().to_string();
    assert!(
        text.starts_with("could not open the initrd '/tmp'"),
        "{text}"
    );
    assert!(BootSource::open(&kernel, None, "a\0b").is_err());
}

#[test]
fn a_second_load_repeats_the_first() {
    let kernel = bzimage(header());
    let initrd = file(&[7; 5000]);
    let mut source = BootSource::open(&kernel, Some(&initrd), "x").unwrap();
    let memory = memory(64 * MIB);
    let dump = || {
        let mut bytes = vec![0; 64 << 20];
        memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        bytes
    };
    source.load(&memory, 64 * MIB, RSDP).unwrap();
    let first = dump();
    for address in [layout::KERNEL, layout::ZERO_PAGE, layout::PAGE_TABLES] {
        memory
            .write_slice(&[0xee; 4096], GuestAddress(address))
            .unwrap();
    }
    memory
        .write_slice(&[0xee; 7], GuestAddress(0xf_fff0))
        .unwrap();
    source.load(&memory, 64 * MIB, RSDP).unwrap();
    assert!(first == dump());
    assert_eq!(memory.num_regions(), 2);
}

#[test]
fn who_gets_to_a_reset_vector_resets_the_machine() {
    let guest = load(&bzimage(header()), None, "", 64 * MIB).unwrap();
    let stub = [0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd];
    assert_eq!(guest.bytes(0xffff_fff0, 7), stub);
    assert_eq!(guest.bytes(0xf_fff0, 7), stub);
}

#[test]
fn a_bzimage_without_a_64_bit_entry_is_entered_in_protected_mode() {
    let only_32_bit = setup_header {
        xloadflags: 0,
        ..header()
    };
    let older = setup_header {
        version: 0x20a,
        ..header()
    };
    for header in [only_32_bit, older] {
        let guest = load(&bzimage(header), None, "x", 64 * MIB).unwrap();
        let registers = Registers {
            eip: layout::KERNEL,
            esi: layout::ZERO_PAGE,
            ..Registers::default()
        };
        assert_eq!(guest.entry, Entry::ProtectedMode(registers));
        let start = guest.params().hdr.code32_start;
        assert_eq!(u64::from(start), layout::KERNEL);
    }
}

/// A note as `ld` puts it into a file.
fn note(name: &[u8; 4], kind: u32, value: &[u8]) -> Vec<u8> {
    let words = [4, value.len() as u32, kind].map(u32::to_le_bytes).concat();
    [&words, name.as_slice(), value].concat()
}

/// An ELF file for `machine` with one segment at 16 MiB and one of notes.
fn elf_with_notes(machine: u16, notes: &[u8]) -> TempPath {
    let kernel = elf(machine, 16 * MIB, &[b"code", notes].concat(), MIB);
    let mut bytes = std::fs::read(&kernel).unwrap();
    let mut header = [0; 56];
    header[0] = 4;
    header[8..16].copy_from_slice(&(120u64 + 56 + 4).to_le_bytes());
    header[32..40].copy_from_slice(&(notes.len() as u64).to_le_bytes());
    bytes[56] = 2;
    bytes.splice(120..120, header);
    // The first segment has moved.
    bytes[64 + 8..64 + 16].copy_from_slice(&(120u64 + 56).to_le_bytes());
    file(&bytes)
}

#[test]
fn an_elf_kernel_with_a_note_is_entered_by_pvh() {
    let notes = [
        note(b"GNU\0", 18, &[1, 2, 3, 4]),
        note(b"Xen\0", 18, &0x0100_0020u32.to_le_bytes()),
    ];
    let kernel = elf_with_notes(62, &notes.concat());
    let guest = load(&kernel, Some(&file(&[7; 5000])), "console=ttyS0", 64 * MIB).unwrap();
    let registers = Registers {
        eip: 0x0100_0020,
        ebx: layout::ZERO_PAGE,
        ..Registers::default()
    };
    assert_eq!(guest.entry, Entry::ProtectedMode(registers));
    assert_eq!(guest.bytes(16 * MIB, 4), b"code");
    let word = |at: u64| u32::from_le_bytes(guest.bytes(at, 4).try_into().unwrap());
    let info = layout::ZERO_PAGE;
    assert_eq!(
        (word(info), word(info + 4), word(info + 12)),
        (0x336e_c578, 1, 1)
    );
    assert_eq!(guest.bytes(word(info + 24).into(), 14), b"console=ttyS0\0");
    assert_eq!(u64::from(word(info + 32)), RSDP);
    let initrd = u64::from(word(info + 16));
    assert_eq!(guest.bytes(word(initrd).into(), 5000), [7; 5000]);
    assert_eq!(word(initrd + 8), 5000);
    let (map, ranges) = (u64::from(word(info + 40)), word(info + 48));
    let expected = layout::e820(64 * MIB);
    assert_eq!(ranges as usize, expected.len());
    let (start, len, kind) = expected[0];
    let first = (word(map), word(map + 8), word(map + 16));
    assert_eq!(first, (start as u32, len as u32, kind as u32));
}

#[test]
fn damaged_notes_are_passed_over_not_followed() {
    let entry = note(b"Xen\0", 18, &[0; 4]);
    for notes in [
        &entry[..entry.len() - 1],
        &note(b"Xen\0", 18, &[0; 2]),
        &[[0xff; 8].as_slice(), &[0; 60]].concat(),
        &[0; 11],
    ] {
        let guest = load(&elf_with_notes(62, notes), None, "", 64 * MIB).unwrap();
        assert_eq!(guest.entry, Entry::LongMode(16 * MIB));
    }
}

#[test]
fn modules_are_for_multiboot_kernels_and_others_take_the_name_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let strange = directory.path().join("a,b c");
    std::fs::write(&strange, [7; 100]).unwrap();
    let guest = load(&bzimage(header()), Some(&strange), "", 64 * MIB).unwrap();
    let len = guest.params().hdr.ramdisk_size;
    assert_eq!(len, 100);
}

#[test]
fn a_list_is_split_at_single_commas() {
    let split = |list: &str| -> Vec<String> {
        let parts = split_options(list.as_ref()).into_iter();
        parts.map(|part| part.into_string().unwrap()).collect()
    };
    assert_eq!(split("a"), ["a"]);
    assert_eq!(split("a b=c,d"), ["a b=c", "d"]);
    assert_eq!(split("a,,b,c"), ["a,b", "c"]);
    assert_eq!(split("a,"), ["a", ""]);
}
