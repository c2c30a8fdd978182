use std::{fs, io::Write};

use super::*;

fn rom(bytes: &[u8]) -> Result<Rom, BootError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    Rom::open(Some(file.path()))
}

fn refused(bytes: &[u8]) -> String {
    rom(bytes).err().unwrap().to_string()
}

/// Each 64 KiB of it hold another byte.
fn pattern(units: u8) -> Vec<u8> {
    (0..units).flat_map(|unit| vec![unit; 64 << 10]).collect()
}

#[test]
fn it_ends_at_4_gib_and_its_end_shows_below_1_mib() {
    let rom = rom(&pattern(4)).unwrap();
    let high = rom.memory().unwrap();
    let byte =
        |memory: &GuestMemoryMmap, at: u64| -> Result<u8, _> { memory.read_obj(GuestAddress(at)) };
    assert_eq!(byte(&high, 0xfffc_0000).unwrap(), 0);
    assert_eq!(byte(&high, 0xffff_fff0).unwrap(), 3);
    assert!(byte(&high, 0xfffb_ffff).is_err());
    let range = (GuestAddress(0), 1 << 20);
    let memory = GuestMemoryMmap::from_ranges(&[range]).unwrap();
    rom.load_copy(&memory).unwrap();
    let found = [0xd_ffff, 0xe_0000, 0xe_ffff, 0xf_0000].map(|at| byte(&memory, at).unwrap());
    assert_eq!(found, [0, 2, 2, 3]);
}

#[test]
fn the_smallest_has_no_more_to_show() {
    let rom = rom(&[7; 64 << 10]).unwrap();
    let range = (GuestAddress(0), 1 << 20);
    let memory = GuestMemoryMmap::from_ranges(&[range]).unwrap();
    rom.load_copy(&memory).unwrap();
    let found: [u8; 2] = memory.read_obj(GuestAddress(0xe_ffff)).unwrap();
    assert_eq!(found, [0, 7]);
}

#[test]
fn other_files_are_refused() {
    assert!(refused(&[]).contains("it has 0 bytes"));
    assert!(refused(&[0; 1000]).contains("it has 1000 bytes"));
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len((16 << 20) + (64 << 10)).unwrap();
    let error = Rom::open(Some(file.path())).err().unwrap().to_string();
    assert!(error.contains("16842752 bytes"), "{error}");
    let dir = tempfile::tempdir().unwrap();
    let error = Rom::open(Some(dir.path())).err().unwrap().to_string();
    assert!(error.contains("could not open the firmware"), "{error}");
    fs::remove_dir(dir.path()).unwrap();
    let error = Rom::open(Some(dir.path())).err().unwrap().to_string();
    assert!(error.contains("No such file"), "{error}");
}
