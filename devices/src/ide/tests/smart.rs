//! SMART, and what else a disk says of itself.

use strata_storage::error::IoError;

use super::rig::*;
use crate::ide::{DriveOptions, Media};

/// SMART with a subcommand and what it wants in the sector count and LBA low registers.
fn smart(rig: &mut Rig, subcommand: u8, count: u8, low: u8) {
    for (register, value) in [(1, subcommand), (2, count), (3, low), (4, 0x4f), (5, 0xc2)] {
        rig.set(register, value);
    }
    rig.set(6, 0xa0);
    rig.command(0xb0);
}

#[test]
fn data_thresholds_and_logs_come_as_sectors() {
    let mut rig = Rig::new();
    for (subcommand, log) in [(0xd0, 0), (0xd1, 0), (0xd5, 1), (0xd5, 6)] {
        smart(&mut rig, subcommand, 1, log);
        let data = rig.read_block(1, 2);
        assert_eq!(data[0], 1, "{subcommand:#x} {log}");
        let sum = data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        assert_eq!(sum, 0, "{subcommand:#x} {log}");
    }
    smart(&mut rig, 0xd5, 1, 0x77);
    rig.failed(ABORTED);
}

#[test]
fn the_directory_of_general_logs_is_empty() {
    let mut rig = Rig::new();
    rig.address48(0, 1);
    rig.command(0x2f);
    let data = rig.read_block(1, 2);
    assert_eq!((data[0], &data[1..]), (1, &[0; 511][..]));
    for (log, sectors) in [(0x03, 1), (0, 2)] {
        rig.address48(log, sectors);
        rig.command(0x2f);
        rig.failed(ABORTED);
    }
}

#[test]
fn the_status_is_good_and_self_tests_are_logged() {
    let mut rig = Rig::new();
    smart(&mut rig, 0xda, 0, 0);
    rig.succeeded();
    assert_eq!(
        (rig.get(4), rig.get(5)),
        (0x4f, 0xc2),
        "no threshold is exceeded"
    );
    smart(&mut rig, 0xd4, 0, 1);
    rig.succeeded();
    smart(&mut rig, 0xd5, 1, 6);
    let log = rig.read_block(1, 2);
    assert_eq!((log[508], log[2], log[3]), (1, 1, 0));
    smart(&mut rig, 0xd4, 0, 0x33);
    rig.failed(ABORTED);
}

#[test]
fn it_can_be_disabled_and_needs_its_key() {
    let mut rig = Rig::new();
    assert_eq!(rig.identify()[85] & 1, 1);
    smart(&mut rig, 0xd9, 0, 0);
    rig.succeeded();
    let id = rig.identify();
    assert_eq!((id[82] & 1, id[85] & 1), (1, 0), "there, and disabled");
    smart(&mut rig, 0xd0, 1, 0);
    rig.failed(ABORTED);
    // It is remembered over a reset.
    rig.function.lock().unwrap().reset();
    smart(&mut rig, 0xda, 0, 0);
    rig.failed(ABORTED);
    rig.set(4, 0x4e);
    rig.set(1, 0xd8);
    rig.command(0xb0);
    rig.failed(ABORTED);
    smart(&mut rig, 0xd8, 0, 0);
    rig.succeeded();
    smart(&mut rig, 0xd2, 0xf1, 0);
    rig.succeeded();
    smart(&mut rig, 0xd2, 5, 0);
    rig.failed(ABORTED);
}

#[test]
fn what_cannot_be_read_is_in_the_error_log() {
    let mut rig = Rig::new();
    *rig.disk.fail.borrow_mut() = Some(IoError::Cancelled);
    rig.address28(7, 2);
    rig.command(0x20);
    rig.failed(UNCORRECTABLE);
    smart(&mut rig, 0xd5, 1, 1);
    let log = rig.read_block(1, 2);
    assert_eq!((log[1], log[452]), (1, 1));
    assert_eq!(log[2 + 48..][..8], [0, 0, 2, 7, 0, 0, 0xe0, 0x20]);
    assert_eq!(log[2 + 60..][..8], [0, 0x40, 2, 7, 0, 0, 0xe0, 0x51]);
}

#[test]
fn names_rotation_and_physical_sectors_are_as_chosen() {
    let mut large = info();
    large.physical_block_size = 4096;
    let options = DriveOptions {
        media: Media::Disk,
        wwn: Some(0x5000_c500_1234_5678),
        rotational: true,
    };
    let mut rig = Rig::attached(&[(0, options)], large);
    let id = rig.identify();
    assert_eq!(id[108..112], [0x5000, 0xc500, 0x1234, 0x5678]);
    assert_eq!((id[84] & 0x100, id[87] & 0x100), (0x100, 0x100));
    assert_eq!(id[217], 7200);
    assert_eq!(id[106], 0x6003, "eight logical sectors in a physical one");
    let id = Rig::new().identify();
    assert_eq!(
        (id[87] & 0x100, id[108], id[217], id[106]),
        (0, 0, 1, 0x4000)
    );
    assert_eq!(id[93] & 0x0100, 0);
}
