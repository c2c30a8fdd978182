use super::*;
use crate::pci::doubles::FakeHost;

const ENABLE: u16 = 1 << 15;
const MASK_ALL: u16 = 1 << 14;

fn table(len: u16) -> (FakeHost, MsixTable) {
    let host = FakeHost::default();
    let table = MsixTable::new(&host, len).unwrap();
    (host, table)
}

fn write32(table: &mut MsixTable, offset: u64, value: u32) {
    table.write_table(offset, &value.to_le_bytes());
}

fn program(table: &mut MsixTable, index: u64, data: u32) {
    let at = index * ENTRY_LEN as u64;
    write32(table, at, 0xfee0_1000);
    write32(table, at + 8, data);
    write32(table, at + 12, 0);
}

fn pending(table: &MsixTable) -> [u8; 8] {
    let mut bits = [0xff; 8];
    table.read_pending(0, &mut bits);
    bits
}

#[test]
fn an_unmasked_vector_is_routed_and_signalled() {
    let (host, mut table) = table(3);
    table.set_control(ENABLE);
    program(&mut table, 1, 0x31);
    let message = MsiMessage {
        address: 0xfee0_1000,
        data: 0x31,
    };
    assert_eq!(host.vector(1).route(), Some(message));
    assert_eq!(host.vector(0).route(), None);
    table.signal(1);
    table.signal(1);
    assert_eq!(host.vector(1).take_signals(), 2);
    assert_eq!(pending(&table), [0; 8]);
}

#[test]
fn a_masked_vector_waits_and_comes_once() {
    let (host, mut table) = table(10);
    table.set_control(ENABLE);
    program(&mut table, 9, 7);
    write32(&mut table, 9 * 16 + 12, 1);
    assert_eq!(host.vector(9).route(), None);
    table.signal(9);
    table.signal(9);
    assert_eq!(host.vector(9).take_signals(), 0);
    assert_eq!(pending(&table), [0, 2, 0, 0, 0, 0, 0, 0]);
    write32(&mut table, 9 * 16 + 12, 0);
    assert_eq!(host.vector(9).take_signals(), 1);
    assert_eq!(pending(&table), [0; 8]);
}

#[test]
fn the_function_mask_covers_every_vector() {
    let (host, mut table) = table(2);
    table.set_control(ENABLE | MASK_ALL);
    program(&mut table, 0, 1);
    assert_eq!(host.vector(0).route(), None);
    table.signal(0);
    assert_eq!(pending(&table)[0], 1);
    table.set_control(ENABLE);
    assert_eq!(host.vector(0).take_signals(), 1);
    table.set_control(ENABLE | MASK_ALL);
    assert_eq!(host.vector(0).route(), None);
}

#[test]
fn a_table_that_is_off_sends_and_keeps_nothing() {
    let (host, mut table) = table(1);
    table.signal(0);
    assert_eq!(pending(&table)[0], 0);
    table.set_control(ENABLE);
    program(&mut table, 0, 1);
    write32(&mut table, 12, 1);
    table.signal(0);
    table.set_control(0);
    table.set_control(ENABLE);
    write32(&mut table, 12, 0);
    assert_eq!(host.vector(0).take_signals(), 0);
}

#[test]
fn a_changed_message_moves_the_route() {
    let (host, mut table) = table(1);
    table.set_control(ENABLE);
    program(&mut table, 0, 1);
    write32(&mut table, 8, 2);
    assert_eq!(host.vector(0).route().unwrap().data, 2);
    table.write_table(0, &0x1_fee0_2000u64.to_le_bytes());
    assert_eq!(host.vector(0).route().unwrap().address, 0x1_fee0_2000);
}

#[test]
fn odd_accesses_do_no_harm() {
    let (host, mut table) = table(2);
    table.set_control(ENABLE);
    program(&mut table, 0, 0x1234_5678);
    let mut before = [0; 32];
    table.read_table(0, &mut before);
    table.write_table(9, &[1, 2, 3, 4]);
    table.write_table(4, &[9; 8]);
    table.write_table(8, &[9]);
    table.write_table(8, &[9; 2]);
    table.write_table(32, &[9; 4]);
    table.write_table(0xffc, &[9; 4]);
    table.signal(2);
    table.signal(0xffff);
    let mut after = [0; 32];
    table.read_table(0, &mut after);
    assert_eq!(before, after);
    assert_eq!(host.vector(0).take_signals(), 0);
    let mut over = [0xaa; 4];
    table.read_table(30, &mut over);
    assert_eq!(over[2..], [0xaa; 2]);
    table.read_pending(0xfff, &mut [0; 1]);
    let reserved = u32::MAX;
    write32(&mut table, 12, reserved);
    table.read_table(12, &mut over);
    assert_eq!(over, [1, 0, 0, 0], "reserved bits stay 0");
}

#[test]
fn reset_masks_and_turns_off() {
    let (host, mut table) = table(1);
    table.set_control(ENABLE);
    program(&mut table, 0, 1);
    table.reset();
    assert_eq!(host.vector(0).route(), None);
    assert!(!table.enabled());
    table.set_control(ENABLE);
    assert_eq!(host.vector(0).route(), None, "the entry is masked again");
}
