use std::os::unix::fs::MetadataExt;

use object::read::elf::{FileHeader, ProgramHeader};

use super::*;

type Header = FileHeader64<LittleEndian>;

const MIB: u64 = 1 << 20;

/// Two regions, with something here and there.
fn memory() -> GuestMemoryMmap {
    let ranges = [
        (GuestAddress(0), 8 * MIB as usize),
        (GuestAddress(1 << 32), 2 * MIB as usize),
    ];
    let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
    for (address, text) in [
        (0x1000, "low"),
        (3 * MIB - 2, "across pages"),
        (8 * MIB - 4, "end"),
        ((1 << 32) + MIB, "high"),
    ] {
        memory
            .write_slice(text.as_bytes(), GuestAddress(address))
            .unwrap();
    }
    memory
}

fn cpus() -> [Registers; 2] {
    let mut cpus = [Registers::default(); 2];
    cpus[0].general.rip = 0x1122_3344_5566_7788;
    cpus[1].index = 1;
    cpus[1].system.cr3 = 0x12_3000;
    cpus
}

/// The core's bytes, and its program headers.
fn written(addresses: Addresses) -> (Vec<u8>, Vec<ProgramHeader64<LittleEndian>>, u64) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("core");
    write(&path, &memory(), &cpus(), addresses).unwrap();
    let bytes = fs::read(&path).unwrap();
    let header = Header::parse(bytes.as_slice()).unwrap();
    let headers = header.program_headers(LittleEndian, bytes.as_slice());
    let blocks = fs::metadata(&path).unwrap().blocks();
    (bytes.clone(), headers.unwrap().to_vec(), blocks)
}

#[test]
fn every_region_is_there_and_zeros_take_no_room() {
    let (bytes, headers, blocks) = written(Addresses::Physical);
    let loads: Vec<_> = headers[1..]
        .iter()
        .map(|header| {
            (
                header.p_type(LittleEndian),
                header.p_paddr(LittleEndian),
                header.p_filesz(LittleEndian),
            )
        })
        .collect();
    let expected = [(PT_LOAD, 0, 8 * MIB), (PT_LOAD, 1 << 32, 2 * MIB)];
    assert_eq!(loads, expected);
    for (header, len) in headers[1..].iter().zip([8 * MIB, 2 * MIB]) {
        let data = header.data(LittleEndian, bytes.as_slice()).unwrap();
        let mut held = vec![0; len as usize];
        let at = GuestAddress(header.p_paddr(LittleEndian));
        memory().read_slice(&mut held, at).unwrap();
        assert!(data == held);
    }
    // Head, and five pages.
    assert!(blocks * 512 <= 128 << 10, "{blocks} blocks");
}

#[test]
fn each_processor_has_its_notes() {
    let (bytes, headers, _) = written(Addresses::Physical);
    let notes = headers[0].notes(LittleEndian, bytes.as_slice()).unwrap();
    let mut notes = notes.unwrap();
    let mut found = Vec::new();
    while let Some(note) = notes.next().unwrap() {
        let name = String::from_utf8(note.name().to_vec()).unwrap();
        found.push((name, note.n_type(LittleEndian).0, note.desc().to_vec()));
    }
    let kinds: Vec<_> = found
        .iter()
        .map(|(name, kind, _)| (name.as_str(), *kind))
        .collect();
    assert_eq!(kinds, [("CORE", 1), ("CORE", 1), ("QEMU", 0), ("QEMU", 0)]);
    let word =
        |note: usize, at: usize| u64::from_le_bytes(found[note].2[at..at + 8].try_into().unwrap());
    // The 17th of the registers, which begin at byte 112; and the thread's number before them.
    assert_eq!(word(0, 112 + 16 * 8), 0x1122_3344_5566_7788);
    assert_eq!((found[0].2[32], found[1].2[32]), (1, 2));
    // Version and size, then the instruction pointer of the first and the page tables of the other.
    assert_eq!(word(2, 0), 440 << 32 | 1);
    assert_eq!(word(2, 8 + 16 * 8), 0x1122_3344_5566_7788);
    assert_eq!(word(3, 8 + 18 * 8 + 10 * 24 + 3 * 8), 0x12_3000);
}

#[test]
fn other_programs_read_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("core");
    write(&path, &memory(), &cpus(), Addresses::Physical).unwrap();
    let read = std::process::Command::new("readelf")
        .args(["--wide", "--file-header", "--segments", "--notes"])
        .arg(&path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&read.stdout);
    for wanted in ["CORE (Core file)", "NT_PRSTATUS", "0x0000000100000000"] {
        assert!(text.contains(wanted), "{text}");
    }
    assert!(
        read.stderr.is_empty(),
        "{}",
        String::from_utf8_lossy(&read.stderr)
    );
}

#[test]
fn where_it_cannot_be_written_nothing_is_left() {
    let error = write(
        "/dev/null".as_ref(),
        &memory(),
        &cpus(),
        Addresses::Physical,
    );
    assert_eq!(error.unwrap_err().to_string(), "not a regular file");
    let error = write(
        "/nosuch/core".as_ref(),
        &memory(),
        &cpus(),
        Addresses::Physical,
    );
    assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);
}
