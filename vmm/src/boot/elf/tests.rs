use std::io::Write;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::*;

const MIB: u64 = 1 << 20;

fn source(bytes: &[u8]) -> Source {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let path = file.into_temp_path();
    Source::open("kernel", &path).unwrap()
}

/// A file for i386 with one segment, which the linker wanted at `virtual_address`.
fn narrow(virtual_address: u32, address: u32, bytes: &[u8], len: u32, entry: u32) -> Vec<u8> {
    let mut out = vec![0; 52 + 32];
    let mut put = |at: usize, value: &[u8]| out[at..at + value.len()].copy_from_slice(value);
    put(0, b"\x7fELF\x01\x01\x01");
    put(18, &3u16.to_le_bytes());
    put(24, &entry.to_le_bytes());
    put(28, &52u32.to_le_bytes());
    put(42, &32u16.to_le_bytes());
    put(44, &1u16.to_le_bytes());
    let fields = [1, 84, virtual_address, address, bytes.len() as u32, len];
    for (at, field) in (52..).step_by(4).zip(fields) {
        put(at, &field.to_le_bytes());
    }
    out.extend(bytes);
    out
}

#[test]
fn a_narrow_file_is_read_and_loaded() {
    let mut source = source(&narrow(0xc010_0000, 0x10_0000, b"code", 8192, 0xc010_0002));
    let elf = Elf::read(&source).unwrap();
    assert!(!elf.is_64_bit);
    assert_eq!((elf.start(), elf.end()), (MIB, MIB + 8192));
    assert_eq!(
        elf.physical_entry(),
        MIB + 2,
        "the linker's address is a virtual one"
    );
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap();
    let dirty = vec![0xee; 16384];
    memory.write_slice(&dirty, GuestAddress(MIB)).unwrap();
    elf.load(&mut source, &memory).unwrap();
    let mut found = vec![0; 8193];
    memory.read_slice(&mut found, GuestAddress(MIB)).unwrap();
    assert_eq!(&found[..5], b"code\0");
    assert_eq!(&found[8191..], [0, 0xee], "zeros up to its end");
}

#[test]
fn an_entry_outside_all_segments_is_a_physical_one() {
    let source = source(&narrow(0xc010_0000, 0x10_0000, b"code", 4, 0x10_0000));
    assert_eq!(Elf::read(&source).unwrap().physical_entry(), MIB);
}

#[test]
fn damaged_files_are_refused() {
    let good = narrow(0x10_0000, 0x10_0000, b"code", 4, 0x10_0000);
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    for (bytes, wanted) in [
        (with(18, 62), "not one for x86-64 or i386"),
        (with(4, 2), "not one for x86-64 or i386"),
        (with(42, 33), "make no sense"),
        (with(44, 65), "make no sense"),
        (with(44, 2), "ends too early"),
        (with(52 + 20, 3), "longer than its memory"),
        (good[..40].to_vec(), "ends too early"),
    ] {
        let error = Elf::read(&source(&bytes)).err().unwrap().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn a_part_outside_memory_is_an_error() {
    let mut source = source(&narrow(0, 0x20_0000, b"code", 4, 0));
    let elf = Elf::read(&source).unwrap();
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
    assert!(elf.load(&mut source, &memory).is_err());
}
