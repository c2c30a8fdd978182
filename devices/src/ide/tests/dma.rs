use strata_block::disk::Op;
use strata_storage::error::IoError;

use super::rig::*;

const ACTIVE: u8 = 0x01;
const MASTER_ERROR: u8 = 0x02;
const INTERRUPT: u8 = 0x04;

/// The bits of the engine's status that a transfer changes.
fn engine(rig: &Rig) -> u8 {
    rig.engine(2) & (ACTIVE | MASTER_ERROR | INTERRUPT)
}

#[test]
fn reads_and_writes_straight_to_guest_memory() {
    let mut rig = Rig::new();
    let data = pattern(8 * 512, 3);
    rig.fill(0x1_0000, &data);
    rig.table(&[(0x1_0000, 512), (0x1_0200, 7 * 512)]);
    rig.address28(50, 8);
    rig.dma(0xca);
    assert_eq!(engine(&rig), INTERRUPT);
    rig.stop_engine();
    rig.succeeded();
    assert_eq!(rig.disk.sectors(50, 8), data);
    rig.table(&[(0x2_0000, 3 * 512), (0x3_0000, 5 * 512)]);
    rig.address48(50, 8);
    rig.dma(0x25);
    assert_eq!(engine(&rig), INTERRUPT);
    rig.succeeded();
    let got = [rig.peek(0x2_0000, 3 * 512), rig.peek(0x3_0000, 5 * 512)].concat();
    assert_eq!(got, data);
    assert_eq!((rig.lba48(), rig.get(2)), (57, 0));
}

#[test]
fn the_engine_may_be_started_before_the_command() {
    let mut rig = Rig::new();
    rig.table(&[(0x2_0000, 512)]);
    rig.set_engine(0, &[0x09]);
    assert_eq!(engine(&rig), ACTIVE);
    rig.address28(3, 1);
    rig.command(0xc8);
    rig.succeeded();
    assert_eq!(rig.peek(0x2_0000, 512), rig.disk.sectors(3, 1));
}

#[test]
fn pieces_of_any_even_size_make_up_sectors() {
    let mut rig = Rig::new();
    // Odd counts lose bit 0, as odd addresses do.
    rig.table(&[
        (0x2_0000, 3),
        (0x2_0100, 1000),
        (0x2_1001, 22),
        (0x2_2000, 0),
    ]);
    rig.address28(3, 4);
    rig.dma(0xc8);
    assert_eq!(engine(&rig), ACTIVE | INTERRUPT, "the table described more");
    rig.succeeded();
    let parts = [
        rig.peek(0x2_0000, 2),
        rig.peek(0x2_0100, 1000),
        rig.peek(0x2_1000, 22),
        rig.peek(0x2_2000, 1024),
    ];
    assert_eq!(parts.concat(), rig.disk.sectors(3, 4));
}

#[test]
fn a_count_of_zero_is_64_kib() {
    let mut rig = Rig::new();
    rig.table(&[(0x10_0000, 0)]);
    rig.address28(0, 128);
    rig.dma(0xc8);
    assert_eq!(engine(&rig), INTERRUPT);
    rig.succeeded();
    assert_eq!(rig.peek(0x10_0000, 0x1_0000), rig.disk.sectors(0, 128));
}

#[test]
fn a_short_table_stalls_and_another_goes_on() {
    let mut rig = Rig::new();
    rig.table(&[(0x2_0000, 700)]);
    rig.address28(10, 3);
    rig.dma(0xc8);
    assert_eq!(engine(&rig), 0, "neither active nor an interrupt");
    assert!(!rig.line.is_high());
    assert_eq!(rig.status(), READY | DATA_REQUEST);
    assert_eq!(rig.peek(0x2_0000, 512), rig.disk.sectors(10, 1));
    rig.stop_engine();
    rig.table(&[(0x3_0000, 1024)]);
    rig.set_engine(0, &[0x09]);
    rig.run();
    rig.succeeded();
    assert_eq!(rig.peek(0x3_0000, 1024), rig.disk.sectors(11, 2));
}

#[test]
fn fua_and_errors_of_the_disk() {
    let mut rig = Rig::new();
    rig.table(&[(0x2_0000, 1024)]);
    rig.address48(10, 2);
    rig.dma(0x3d);
    rig.succeeded();
    assert_eq!(rig.disk.ops(), [Op::Write { fua: true }]);
    *rig.disk.fail.borrow_mut() = Some(IoError::Cancelled);
    rig.stop_engine();
    rig.address28(10, 2);
    rig.dma(0xc8);
    rig.failed(UNCORRECTABLE);
    assert_eq!(rig.lba28(), 10);
    assert_eq!(engine(&rig), INTERRUPT);
}

#[test]
fn the_engine_waits_for_bus_mastering() {
    let mut rig = Rig::new();
    rig.function.lock().unwrap().write_config(4, &[0x01, 0]);
    rig.table(&[(0x2_0000, 512)]);
    rig.address28(10, 1);
    rig.dma(0xc8);
    assert!(rig.disk.ops().is_empty());
    assert_eq!(engine(&rig), ACTIVE);
    rig.enable_bus_master();
    rig.run();
    rig.succeeded();
}

#[test]
fn status_bits_clear_by_writing_ones_and_tables_are_aligned() {
    let rig = Rig::new();
    assert_eq!(rig.engine(2), 0x20, "drive 0 can do DMA");
    rig.set_engine(4, &0xffff_ffffu32.to_le_bytes());
    let mut table = [0; 4];
    rig.function.lock().unwrap().read_bar(4, 4, &mut table);
    assert_eq!(u32::from_le_bytes(table), 0xffff_fffc);
    rig.set_engine(2, &[0x40]);
    assert_eq!(rig.engine(2), 0x40);
}

/// A list of TRIM ranges in one block.
fn trim_list(ranges: &[(u64, u16)]) -> Vec<u8> {
    let mut block = vec![0; 512];
    for (slot, &(lba, count)) in block.chunks_mut(8).zip(ranges) {
        slot.copy_from_slice(&(lba | u64::from(count) << 48).to_le_bytes());
    }
    block
}

#[test]
fn trim_discards_what_it_lists() {
    let mut rig = Rig::new();
    rig.fill(0x2_0000, &trim_list(&[(10, 2), (100, 0), (200, 5)]));
    rig.table(&[(0x2_0000, 512)]);
    rig.address48(0, 1);
    rig.set(1, 1);
    rig.dma(0x06);
    rig.succeeded();
    let log = rig.disk.log.borrow().clone();
    assert_eq!(
        log,
        [(Op::Discard, 5120, 1024), (Op::Discard, 102_400, 2560)]
    );
    // One range outside the disk, and nothing is discarded.
    rig.stop_engine();
    rig.fill(0x2_0000, &trim_list(&[(10, 2), (SECTORS, 1)]));
    rig.set(1, 1);
    rig.address48(0, 1);
    rig.dma(0x06);
    rig.failed(ABORTED);
    assert_eq!(rig.disk.log.borrow().len(), 2);
    // Other functions of the command, and too many blocks.
    for (features, blocks) in [(0, 1), (2, 1), (1, 9), (1, 0)] {
        rig.address48(0, blocks);
        rig.set(1, features);
        rig.command(0x06);
        rig.failed(ABORTED);
    }
}
