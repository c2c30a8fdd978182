use strata_block::disk::Op;
use strata_storage::error::IoError;

use super::rig::*;

fn text(words: &[u16]) -> String {
    let bytes = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    String::from_utf8(bytes).unwrap().trim_end().to_owned()
}

#[test]
fn identify_describes_the_drive() {
    let mut rig = Rig::new();
    let id = rig.identify();
    assert_eq!(text(&id[27..47]), "STRATA HARDDISK");
    assert_eq!(text(&id[10..20]), "SERIAL-1");
    assert_eq!(id[0], 0x0040);
    assert_eq!(
        (id[1], id[3], id[6]),
        ((SECTORS / (16 * 63)) as u16, 16, 63)
    );
    assert_eq!(u32::from(id[60]) | u32::from(id[61]) << 16, SECTORS as u32);
    assert_eq!(
        u32::from(id[100]) | u32::from(id[101]) << 16,
        SECTORS as u32
    );
    assert_ne!(id[49] & 0x0300, 0, "DMA and LBA");
    assert_ne!(id[83] & 1 << 10, 0, "LBA48");
    assert_eq!(id[83] & 0x3000, 0x3000, "both flushes");
    assert_ne!(id[85] & 1 << 5, 0, "write cache on");
    assert_eq!((id[63] & 7, id[88]), (7, 0x203f));
    assert_eq!(id[169], 1, "TRIM");
    let bytes = id.iter().flat_map(|word| word.to_le_bytes());
    assert_eq!(bytes.fold(0u8, u8::wrapping_add), 0);
    assert_eq!(rig.status(), READY);
}

#[test]
fn a_read_only_disk_takes_no_writes_and_no_trim() {
    let mut read_only = info();
    read_only.read_only = true;
    let mut rig = Rig::with(0, read_only);
    assert_eq!(rig.identify()[169], 0);
    rig.address28(0, 1);
    rig.command(0x30);
    rig.write_block(&[1; 512], 2);
    rig.failed(ABORTED);
    assert!(rig.disk.ops().is_empty());
}

#[test]
fn unknown_and_unsupported_commands_are_aborted() {
    let mut rig = Rig::new();
    // NOP, DEVICE RESET, PACKET, IDENTIFY PACKET DEVICE, SMART without its key, security, and codes
    // of nothing.
    for code in [0x00, 0x08, 0xa0, 0xa1, 0xb0, 0xf1, 0xff, 0x80, 0xb1] {
        rig.command(code);
        rig.failed(ABORTED);
    }
    rig.command(0xec);
    assert_eq!(rig.acknowledge(), READY | DATA_REQUEST, "the error is gone");
}

#[test]
fn power_recalibrate_and_seek() {
    let mut rig = Rig::new();
    for code in [0x10, 0xe0, 0xe1, 0xe2, 0xe3, 0xe6, 0x94] {
        rig.command(code);
        rig.succeeded();
    }
    rig.command(0xe5);
    rig.succeeded();
    assert_eq!(rig.get(2), 0xff);
    rig.address28(SECTORS as u32 - 1, 1);
    rig.command(0x70);
    rig.succeeded();
    rig.address28(SECTORS as u32, 1);
    rig.command(0x70);
    rig.failed(NOT_FOUND);
}

#[test]
fn native_max_is_the_last_sector() {
    let mut rig = Rig::new();
    rig.address28(0, 0);
    rig.command(0xf8);
    rig.succeeded();
    assert_eq!(rig.lba28(), SECTORS as u32 - 1);
    rig.command(0x27);
    rig.succeeded();
    assert_eq!(rig.lba48(), SECTORS - 1);
}

#[test]
fn flush_reaches_the_disk_and_its_error_comes_back() {
    let mut rig = Rig::new();
    for code in [0xe7, 0xea] {
        rig.command(code);
        rig.succeeded();
    }
    assert_eq!(rig.disk.ops(), [Op::Flush, Op::Flush]);
    *rig.disk.fail.borrow_mut() = Some(IoError::Cancelled);
    rig.command(0xe7);
    rig.failed(ABORTED);
}

fn feature(rig: &mut Rig, subcommand: u8, count: u8) {
    rig.set(1, subcommand);
    rig.set(2, count);
    rig.command(0xef);
}

#[test]
fn without_a_write_cache_writes_are_durable() {
    let mut rig = Rig::new();
    let write = |rig: &mut Rig| {
        rig.address28(1, 1);
        rig.command(0x30);
        rig.write_block(&[7; 512], 2);
        rig.succeeded();
    };
    write(&mut rig);
    feature(&mut rig, 0x82, 0);
    rig.succeeded();
    write(&mut rig);
    assert_eq!(rig.identify()[85] & 1 << 5, 0);
    feature(&mut rig, 0x02, 0);
    rig.succeeded();
    write(&mut rig);
    // WRITE MULTIPLE FUA EXT.
    rig.address48(1, 1);
    rig.command(0xce);
    rig.write_block(&[7; 512], 2);
    rig.succeeded();
    let cached = Op::Write { fua: false };
    let durable = Op::Write { fua: true };
    assert_eq!(
        rig.disk.ops(),
        [cached, Op::Flush, durable, cached, durable]
    );
}

#[test]
fn transfer_modes_show_in_identify() {
    let mut rig = Rig::new();
    for (mode, word63, word88) in [(0x22, 0x0407, 0x003f), (0x42, 0x0007, 0x043f)] {
        feature(&mut rig, 0x03, mode);
        rig.succeeded();
        let id = rig.identify();
        assert_eq!((id[63], id[88]), (word63, word88));
    }
    feature(&mut rig, 0x03, 0x0c);
    rig.succeeded();
    for bad in [0x23, 0x46, 0x10, 0x0d, 0x80] {
        feature(&mut rig, 0x03, bad);
        rig.failed(ABORTED);
    }
    feature(&mut rig, 0x90, 0);
    rig.failed(ABORTED);
    for known in [0x55, 0xaa, 0x66, 0xcc] {
        feature(&mut rig, known, 0);
        rig.succeeded();
    }
}

#[test]
fn initialize_parameters_changes_the_geometry() {
    let mut rig = Rig::new();
    rig.set(2, 32);
    rig.set(6, 0xa7);
    rig.command(0x91);
    rig.succeeded();
    let id = rig.identify();
    assert_eq!(
        (id[54], id[55], id[56]),
        ((SECTORS / (8 * 32)) as u16, 8, 32)
    );
    assert_eq!((id[3], id[6]), (16, 63), "the default stays");
    rig.set(2, 0);
    rig.command(0x91);
    rig.failed(ABORTED);
}
