use std::path::Path;

use vm_memory::Bytes;

use super::*;
use crate::{
    boot::{BootSource, tests::file},
    kvm::regs::{Entry, Registers},
};

const MIB: u64 = 1 << 20;
const AT: u64 = 2 * MIB;

/// A flat kernel of 100 bytes that is loaded at `AT`, with its header 8 bytes in.
fn flat(flags: u32, addresses: [u64; 5]) -> Vec<u8> {
    let flags = flags | HAS_ADDRESSES;
    let sum = 0u32.wrapping_sub(HEADER_MAGIC).wrapping_sub(flags);
    let mut bytes = vec![b'x'; 8];
    for word in [HEADER_MAGIC, flags, sum] {
        bytes.extend(word.to_le_bytes());
    }
    for address in addresses {
        bytes.extend((address as u32).to_le_bytes());
    }
    bytes.resize(100, b'y');
    bytes
}

fn memory(size: u64) -> GuestMemoryMmap {
    let ranges = [(0, size), layout::RESET_PAGE];
    let ranges = ranges.map(|(start, len)| (GuestAddress(start), len as usize));
    let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
    // As an earlier boot may have left it.
    memory.write_slice(&[0xee; 8192], GuestAddress(AT)).unwrap();
    memory
}

fn load(
    bytes: &[u8],
    initrd: Option<&str>,
    cmdline: &str,
) -> Result<(GuestMemoryMmap, Registers), BootError> {
    let memory = memory(16 * MIB);
    let kernel = file(bytes);
    let mut source = BootSource::open(&kernel, initrd.map(Path::new), cmdline)?;
    match source.load(&memory, 16 * MIB, 0)? {
        Entry::ProtectedMode(registers) => Ok((memory, registers)),
        other => panic!("{other:?}"),
    }
}

fn refused(bytes: &[u8]) -> String {
    load(bytes, None, "").err().unwrap().to_string()
}

fn word(memory: &GuestMemoryMmap, at: u64) -> u64 {
    let word: u32 = memory.read_obj(GuestAddress(at)).unwrap();
    word.into()
}

fn bytes<const N: usize>(memory: &GuestMemoryMmap, at: u64) -> [u8; N] {
    let mut bytes = [0; N];
    memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
    bytes
}

#[test]
fn a_flat_kernel_is_loaded_where_its_header_says_and_zeros_follow() {
    let kernel = flat(0, [AT + 8, AT, AT + 100, AT + 200, AT + 40]);
    let (memory, registers) = load(&kernel, None, "").unwrap();
    assert_eq!(bytes::<8>(&memory, AT), [b'x'; 8]);
    assert_eq!(bytes::<3>(&memory, AT + 98), [b'y', b'y', 0]);
    assert_eq!(bytes::<2>(&memory, AT + 199), [0, 0xee]);
    assert_eq!((registers.eip, registers.eax), (AT + 40, 0x2bad_b002));
    assert_eq!(registers.ebx, layout::MULTIBOOT_INFO);
}

#[test]
fn no_end_means_all_of_the_file() {
    let (memory, _) = load(&flat(0, [AT + 8, AT, 0, 0, AT]), None, "").unwrap();
    assert_eq!(bytes::<2>(&memory, AT + 99), [b'y', 0xee]);
}

#[test]
fn it_is_told_of_command_line_memory_and_modules() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(path("one"), [1; 5000]).unwrap();
    std::fs::write(path("two"), [2; 10]).unwrap();
    let list = format!("{} a=b,{}", path("one"), path("two"));
    let kernel = flat(3, [AT + 8, AT, 0, 0, AT]);
    let (memory, registers) = load(&kernel, Some(&list), "quiet").unwrap();
    let info = registers.ebx;
    let text = |at: u64| {
        let all = bytes::<256>(&memory, at);
        let end = all.iter().position(|&byte| byte == 0).unwrap();
        String::from_utf8(all[..end].to_vec()).unwrap()
    };
    assert_eq!(word(&memory, info), 0b10_0100_1101);
    let (lower, upper) = (word(&memory, info + 4), word(&memory, info + 8));
    assert_eq!((lower, upper), (639, 15 * 1024));
    let cmdline = text(word(&memory, info + 16));
    assert!(
        cmdline.starts_with('/') && cmdline.ends_with(" quiet"),
        "{cmdline}"
    );
    assert_eq!(text(word(&memory, info + 64)), "strata");

    assert_eq!(word(&memory, info + 20), 2);
    let modules = word(&memory, info + 24);
    let module = |index: u64| [0, 4, 8].map(|field| word(&memory, modules + 16 * index + field));
    let ([start, end, words], [second, second_end, _]) = (module(0), module(1));
    assert_eq!((end - start, second_end - second), (5000, 10));
    assert!(start % 4096 == 0 && second % 4096 == 0 && second >= end);
    assert_eq!(bytes::<2>(&memory, end - 2), [1; 2]);
    assert_eq!(bytes::<10>(&memory, second), [2; 10]);
    assert_eq!(text(words), format!("{} a=b", path("one")));

    let map = layout::e820(16 * MIB);
    let (len, at) = (word(&memory, info + 44), word(&memory, info + 48));
    assert_eq!(len, 24 * map.len() as u64);
    let (start, length, kind) = map[2];
    let third = [0, 4, 12, 20].map(|field| word(&memory, at + 48 + field));
    assert_eq!(third, [20, start, length, kind as u64]);
}

#[test]
fn a_kernel_in_low_memory_leaves_room_for_what_it_is_told() {
    let kernel = flat(0, [0x4008, 0x4000, 0, 0x3_0000, 0x4000]);
    let (memory, registers) = load(&kernel, None, "x").unwrap();
    assert!(registers.ebx >= 0x3_0000);
    assert_eq!(word(&memory, registers.ebx + 4), 639);
}

#[test]
fn headers_that_make_no_sense_are_refused() {
    let good = [AT + 8, AT, 0, 0, AT];
    for (flags, addresses, wanted) in [
        (8, good, "demands what is not known"),
        (0, [AT, AT + 8, 0, 0, AT], "make no sense"),
        (0, [AT + 9, AT, 0, 0, AT], "make no sense"),
        (0, [AT + 8, AT, AT + 101, 0, AT], "make no sense"),
        (0, [AT + 8, AT, AT - 1, 0, AT], "make no sense"),
        (0, [8, 0, 0, 0, 0], "below 0x1000"),
        (0, [AT + 8, AT, 0, 32 * MIB, AT], "too small"),
    ] {
        let error = refused(&flat(flags, addresses));
        assert!(error.contains(wanted), "{error}");
    }
    let mut cut = flat(0, good);
    cut.truncate(30);
    assert!(refused(&cut).contains("cut off"));
    let mut wrong = flat(0, good);
    wrong[16] ^= 1;
    assert!(refused(&wrong).contains("has no multiboot header"));
}

#[test]
fn a_command_line_has_to_fit_into_low_memory() {
    let kernel = flat(0, [AT + 8, AT, 0, 0, AT]);
    let error = load(&kernel, None, &"a".repeat(2047)).err();
    assert!(error.is_none());
    let error = load(&kernel, None, &"a".repeat(700_000)).err().unwrap();
    assert!(error.to_string().contains("700000 bytes"), "{error}");
}

#[test]
fn a_module_that_is_missing_is_named() {
    let kernel = flat(0, [AT + 8, AT, 0, 0, AT]);
    let error = load(&kernel, Some("/no/such/module words"), "")
        .err()
        .unwrap();
    let text = error.to_string();
    assert!(
        text.starts_with("could not open the initrd '/no/such/module'"),
        "{text}"
    );
}
