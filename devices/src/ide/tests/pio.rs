use strata_block::disk::Op;
use strata_storage::error::IoError;

use super::rig::*;

#[test]
fn reads_sector_by_sector_with_an_interrupt_each() {
    let mut rig = Rig::new();
    rig.address28(5, 3);
    rig.command(0x20);
    let mut got = Vec::new();
    for _ in 0..3 {
        got.extend(rig.read_block(1, 2));
        rig.run();
    }
    assert_eq!(got, rig.disk.sectors(5, 3));
    assert_eq!(rig.status(), READY);
    assert!(!rig.line.is_high(), "no interrupt after the last block");
    assert_eq!((rig.lba28(), rig.get(2)), (7, 0));
}

#[test]
fn writes_and_reads_multiple_in_blocks_with_32_bit_accesses() {
    let mut rig = Rig::new();
    rig.address28(0, 4);
    rig.command(0xc6);
    rig.succeeded();
    let data = pattern(6 * 512, 1);
    rig.address28(100, 6);
    rig.command(0xc5);
    assert!(!rig.line.is_high(), "the first block is not announced");
    rig.write_block(&data[..4 * 512], 4);
    assert_eq!(rig.acknowledge(), READY | DATA_REQUEST);
    rig.write_block(&data[4 * 512..], 4);
    rig.succeeded();
    assert_eq!(rig.disk.sectors(100, 6), data);
    rig.address48(100, 6);
    rig.command(0x29);
    let mut got = rig.read_block(4, 4);
    rig.run();
    got.extend(rig.read_block(2, 4));
    assert_eq!(got, data);
    assert_eq!(rig.lba48(), 105);
}

#[test]
fn multiple_commands_need_the_mode() {
    let mut rig = Rig::new();
    for bad in [3, 32, 255] {
        rig.address28(0, bad);
        rig.command(0xc6);
        rig.failed(ABORTED);
    }
    assert_eq!(rig.identify()[59], 0x0110, "unchanged");
    rig.address28(0, 0);
    rig.command(0xc6);
    rig.succeeded();
    assert_eq!(rig.identify()[59], 0);
    rig.address28(0, 1);
    rig.command(0xc4);
    rig.failed(ABORTED);
}

#[test]
fn a_count_of_zero_is_256_or_65536_sectors() {
    let mut rig = Rig::new();
    rig.address28(0, 0);
    rig.command(0x20);
    for _ in 0..256 {
        rig.read_block(1, 2);
        rig.run();
    }
    assert_eq!(rig.status(), READY);
    assert_eq!(rig.lba28(), 255);
    // 65,536 sectors do not fit on this disk: the first missing one shows.
    rig.address48(0, 0);
    rig.command(0x24);
    rig.failed(NOT_FOUND);
    assert_eq!(rig.lba48(), SECTORS);
}

#[test]
fn chs_addresses_find_the_same_sectors() {
    let mut rig = Rig::new();
    // Cylinder 2, head 3, sector 5 of 16 heads and 63 sectors.
    let sector = (2 * 16 + 3) * 63 + 4;
    for (register, value) in [(2, 1), (3, 5), (4, 2), (5, 0), (6, 0xa3)] {
        rig.set(register, value);
    }
    rig.command(0x20);
    assert_eq!(rig.read_block(1, 2), rig.disk.sectors(sector, 1));
    assert_eq!((rig.get(3), rig.get(4), rig.get(6)), (5, 2, 0xa3));
    for bad in [(3, 0), (3, 64), (4, 200)] {
        for (register, value) in [(2, 1), (3, 5), (4, 2), (5, 0), (6, 0xa3), bad] {
            rig.set(register, value);
        }
        rig.command(0x20);
        rig.failed(NOT_FOUND);
    }
}

#[test]
fn the_end_of_the_disk_is_an_error_with_its_address() {
    let mut rig = Rig::new();
    let last = SECTORS as u32 - 1;
    rig.address28(last, 1);
    rig.command(0x20);
    assert_eq!(rig.read_block(1, 2), rig.disk.sectors(SECTORS - 1, 1));
    rig.address28(last, 2);
    rig.command(0x20);
    rig.failed(NOT_FOUND);
    assert_eq!(rig.lba28(), last + 1);
    rig.address48(u64::MAX >> 16, 1);
    rig.command(0x34);
    rig.failed(NOT_FOUND);
    assert_eq!(rig.lba48(), u64::MAX >> 16);
}

#[test]
fn host_errors_name_the_sector() {
    let mut rig = Rig::new();
    *rig.disk.fail.borrow_mut() = Some(IoError::Cancelled);
    rig.address28(9, 4);
    rig.command(0x20);
    rig.failed(UNCORRECTABLE);
    assert_eq!(rig.lba28(), 9);
    rig.address28(11, 1);
    rig.command(0x30);
    rig.write_block(&[0; 512], 2);
    rig.failed(ABORTED);
    assert_eq!(rig.lba28(), 11);
    // The drive is fine again.
    *rig.disk.fail.borrow_mut() = None;
    rig.address28(9, 1);
    rig.command(0x20);
    assert_eq!(rig.read_block(1, 2), rig.disk.sectors(9, 1));
}

#[test]
fn verify_reads_everything_and_moves_nothing() {
    let mut rig = Rig::new();
    rig.address48(10, 600);
    rig.command(0x42);
    rig.succeeded();
    let log = rig.disk.log.borrow().clone();
    assert!(log.iter().all(|(op, ..)| *op == Op::Read));
    assert_eq!(log.iter().map(|(.., len)| len).sum::<u64>(), 600 * 512);
    assert_eq!(
        log.last().map(|(_, offset, len)| offset + len),
        Some(610 * 512)
    );
    *rig.disk.fail.borrow_mut() = Some(IoError::Cancelled);
    rig.address28(10, 1);
    rig.command(0x40);
    rig.failed(UNCORRECTABLE);
}

#[test]
fn the_data_port_is_empty_when_nothing_is_offered() {
    let rig = Rig::new();
    let mut word = [0; 2];
    rig.ports.read(0x1f0, &mut word);
    assert_eq!(word, [0xff; 2]);
    rig.ports.write(0x1f0, &[1, 2, 3, 4]);
    assert_eq!(rig.status(), READY);
}
