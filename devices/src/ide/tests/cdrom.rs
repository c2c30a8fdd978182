use strata_block::disk::Op;
use strata_storage::error::IoError;

use super::rig::*;
use crate::ide::{DriveOptions, Media};

const DMA: u8 = 1;
const READ_10: u8 = 0x28;
const TEST_UNIT_READY: u8 = 0x00;

/// READ(10) of `count` blocks.
fn read(first: u8, count: u8) -> [u8; 9] {
    [READ_10, 0, 0, 0, 0, first, 0, 0, count]
}

fn text(words: &[u16]) -> String {
    let bytes = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    String::from_utf8(bytes).unwrap().trim_end().to_owned()
}

#[test]
fn its_signature_tells_it_from_a_disk() {
    let mut rig = Rig::cdrom(400);
    let signature = [1, 1, 1, 0x14, 0xeb, 0];
    let shown = |rig: &Rig| [1, 2, 3, 4, 5, 6].map(|register| rig.get(register));
    assert_eq!((shown(&rig), rig.status()), (signature, 0));
    // IDENTIFY DEVICE, and READ SECTOR(S), are refused, and show it again.
    for code in [0xec, 0x20] {
        rig.set(4, 0);
        rig.command(code);
        rig.failed(ABORTED);
        assert_eq!((rig.get(4), rig.get(5)), (0x14, 0xeb));
    }
    for reset in [true, false] {
        rig.packet(0, 0, &[TEST_UNIT_READY], 2);
        rig.packet_succeeded();
        if reset {
            rig.set_control(4);
            rig.set_control(0);
        } else {
            rig.command(0x08);
        }
        assert!(!rig.line.is_high());
        assert_eq!((shown(&rig), rig.status()), (signature, 0));
    }
    rig.command(0x90);
    assert_eq!(rig.acknowledge(), 0);
    assert_eq!(shown(&rig), signature);
}

#[test]
fn identify_packet_device_describes_it() {
    let mut rig = Rig::cdrom(400);
    rig.command(0xa1);
    let data = rig.read_block(1, 2);
    let words = data.chunks(2).map(|w| u16::from_le_bytes([w[0], w[1]]));
    let id: Vec<_> = words.collect();
    assert_eq!(id[0], 0x85c0, "a CD drive that takes 12 bytes");
    assert_eq!(text(&id[27..47]), "STRATA DVD-ROM");
    assert_eq!(text(&id[10..20]), "SERIAL-1");
    assert_eq!(id[49] & 0x0300, 0x0300, "DMA and LBA");
    assert_eq!(id[82] & 0x0210, 0x0210, "PACKET and DEVICE RESET");
    assert_eq!((id[60], id[83] & 1 << 10, id[169]), (0, 0, 0), "no disk");
    assert_eq!(
        data.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)),
        0
    );
}

#[test]
fn disks_commands_are_aborted_and_power_commands_are_not() {
    let mut rig = Rig::cdrom(400);
    for code in [0x00, 0x24, 0x25, 0x30, 0xc8, 0xca, 0xe7, 0xea, 0x06, 0xb0] {
        rig.command(code);
        rig.failed(ABORTED);
    }
    for code in [0xe0, 0xe1, 0xe5] {
        rig.command(code);
        rig.succeeded();
    }
    // The transfer mode is the one thing to be set.
    for (subcommand, count, succeeds) in [(3, 0x22, true), (3, 0x47, false), (2, 0, false)] {
        rig.set(1, subcommand);
        rig.set(2, count);
        rig.command(0xef);
        if succeeds {
            rig.succeeded();
        } else {
            rig.failed(ABORTED);
        }
    }
}

#[test]
fn blocks_come_through_the_data_port_within_the_limit() {
    for (limit, expected) in [
        (2048, vec![2048; 5]),
        (0xffff, vec![10240]),
        (5000, vec![4096, 4096, 2048]),
        (1001, [vec![1000; 10], vec![240]].concat()),
    ] {
        let mut rig = Rig::cdrom(400);
        let (sizes, reply) = rig.packet_in(limit, &read(3, 5));
        assert_eq!(sizes, expected, "limit {limit}");
        assert_eq!(reply, rig.disk.sectors(12, 20));
    }
}

#[test]
fn long_reads_are_fetched_in_pieces() {
    let mut rig = Rig::cdrom(400);
    let (sizes, reply) = rig.packet_in(2048, &read(0, 100));
    assert_eq!(sizes, vec![2048; 100]);
    assert_eq!(reply, rig.disk.sectors(0, 400));
    let chunk = 32 * 2048;
    let log: Vec<_> = rig.disk.log.borrow().iter().map(|e| (e.1, e.2)).collect();
    let rest = 4 * 2048;
    assert_eq!(
        log,
        [
            (0, chunk),
            (chunk, chunk),
            (2 * chunk, chunk),
            (3 * chunk, rest)
        ]
    );
}

#[test]
fn the_bus_master_takes_blocks_and_replies() {
    let mut rig = Rig::cdrom(400);
    rig.table(&[(0x2_0000, 2048), (0x4_0000, 8192)]);
    rig.set_engine(0, &[0x08]);
    rig.packet(DMA, 0, &read(3, 5), 4);
    assert_eq!(rig.status(), READY | DATA_REQUEST, "it waits");
    rig.set_engine(0, &[0x09]);
    rig.run();
    rig.packet_succeeded();
    assert_eq!(rig.engine(2) & 7, 4);
    let got = [rig.peek(0x2_0000, 2048), rig.peek(0x4_0000, 8192)].concat();
    assert_eq!(got, rig.disk.sectors(12, 20));
    // A reply that is shorter than the table leaves the rest alone.
    rig.stop_engine();
    rig.fill(0x2_0000, &[0xaa; 96]);
    rig.table(&[(0x2_0000, 96)]);
    rig.packet(DMA, 0, &[0x12, 0, 0, 0, 96], 2);
    rig.set_engine(0, &[0x09]);
    rig.run();
    rig.packet_succeeded();
    let reply = rig.peek(0x2_0000, 96);
    assert_eq!(reply[8..24], *b"STRATA  DVD-ROM ");
    assert_eq!(reply[36..], [0xaa; 60]);
}

#[test]
fn a_table_that_is_too_short_or_no_memory_fails_the_command() {
    for (table, engine) in [((0x2_0000, 2046), 4), ((MEMORY as u32, 2048), 6)] {
        let mut rig = Rig::cdrom(400);
        rig.table(&[table]);
        rig.set_engine(0, &[0x09]);
        rig.packet(DMA, 0, &read(3, 1), 2);
        assert_eq!(rig.packet_failed(0xb), [0xb, 0x4b, 0]);
        assert_eq!(rig.engine(2) & 7, engine);
        assert!(rig.disk.ops().is_empty());
    }
}

#[test]
fn the_end_of_a_disc_that_is_no_whole_block_reads_as_zeros() {
    let mut rig = Rig::cdrom(401);
    let (_, capacity) = rig.packet_in(64, &[0x25]);
    assert_eq!(capacity, [0, 0, 0, 100, 0, 0, 8, 0]);
    let expected = [rig.disk.sectors(396, 5), vec![0; 3 * 512]].concat();
    let (_, reply) = rig.packet_in(2048, &read(99, 2));
    assert_eq!(reply, expected);
    rig.fill(0x2_0000, &[0xaa; 4096]);
    rig.table(&[(0x2_0000, 4096)]);
    rig.set_engine(0, &[0x09]);
    rig.packet(DMA, 0, &read(99, 2), 2);
    rig.packet_succeeded();
    assert_eq!(rig.peek(0x2_0000, 4096), expected);
    rig.packet(0, 2048, &read(100, 2), 2);
    assert_eq!(rig.packet_failed(5), [5, 0x21, 0]);
}

#[test]
fn a_disc_that_cannot_be_read_is_a_medium_error() {
    let mut rig = Rig::cdrom(400);
    *rig.disk.fail.borrow_mut() = Some(IoError::Cancelled);
    rig.packet(0, 2048, &read(0, 1), 2);
    assert_eq!(rig.packet_failed(3), [3, 0x11, 0]);
    rig.table(&[(0x2_0000, 2048)]);
    rig.set_engine(0, &[0x09]);
    rig.packet(DMA, 0, &read(0, 1), 2);
    assert_eq!(rig.packet_failed(3), [3, 0x11, 0]);
    // What has been reported is cleared.
    let (_, sense) = rig.packet_in(64, &[0x03, 0, 0, 0, 18]);
    assert_eq!((sense[2], sense[12]), (0, 0));
}

#[test]
fn no_room_for_data_and_overlapped_commands_are_aborted() {
    let mut rig = Rig::cdrom(400);
    rig.packet(0, 0, &read(0, 1), 2);
    rig.failed(ABORTED);
    assert!(rig.disk.ops().is_empty());
    rig.set(1, 2);
    rig.command(0xa0);
    rig.failed(ABORTED);
    // Where no data comes there is no need for a limit.
    rig.packet(0, 0, &read(0, 0), 2);
    rig.packet_succeeded();
}

#[test]
fn a_reset_of_the_device_is_taken_while_it_is_busy() {
    let mut rig = Rig::cdrom(400);
    *rig.disk.hold.borrow_mut() = true;
    rig.packet(0, 2048, &read(0, 1), 2);
    assert_eq!(rig.status() & BUSY, BUSY);
    rig.command(0x08);
    assert_eq!(rig.status(), BUSY, "still in flight");
    rig.disk.release();
    assert_eq!((rig.status(), rig.get(4)), (0, 0x14));
    assert!(!rig.line.is_high());
    let (_, reply) = rig.packet_in(2048, &read(0, 1));
    assert_eq!(reply, rig.disk.sectors(0, 4));
}

#[test]
fn stopping_the_engine_takes_back_what_has_not_been_started() {
    let mut rig = Rig::cdrom(400);
    rig.worker.borrow_mut().stop();
    rig.table(&[(0x2_0000, 2048)]);
    rig.set_engine(0, &[0x09]);
    rig.packet(DMA, 0, &read(7, 1), 2);
    rig.stop_engine();
    assert_eq!(rig.status(), READY | DATA_REQUEST);
    rig.worker.borrow_mut().cont();
    rig.run();
    assert!(rig.disk.ops().is_empty());
    rig.set_engine(0, &[0x09]);
    rig.run();
    rig.packet_succeeded();
    assert_eq!(rig.peek(0x2_0000, 2048), rig.disk.sectors(28, 4));
}

#[test]
fn a_cd_drive_and_a_disk_share_a_cable() {
    let mut rig = {
        let drive = |media| DriveOptions {
            media,
            ..DriveOptions::default()
        };
        let drives = [(0, drive(Media::Disk)), (1, drive(Media::Cdrom))];
        Rig::attached(&drives, info())
    };
    rig.set(6, 0xb0);
    assert_eq!((rig.get(4), rig.get(5), rig.status()), (0x14, 0xeb, 0));
    rig.set(1, 0);
    rig.set(4, 0);
    rig.set(5, 8);
    rig.set(7, 0xa0);
    for word in [[0x28, 0], [0, 0], [0, 2], [0, 0], [1, 0], [0, 0]] {
        rig.ports.write(0x1f0, &word);
    }
    rig.run();
    // The disk has nothing to do with it.
    rig.set(6, 0xa0);
    assert_eq!(rig.status(), READY);
    rig.set(6, 0xb0);
    assert_eq!(rig.read_block(4, 2), rig.disk.sectors(8, 4));
    rig.succeeded();
    rig.set(6, 0xe0);
    rig.address28(7, 1);
    rig.command(0x20);
    assert_eq!(rig.read_block(1, 2), rig.disk.sectors(7, 1));
    assert_eq!(rig.disk.ops(), [Op::Read, Op::Read]);
}

#[test]
fn another_disc_size_shows_at_once() {
    let mut rig = Rig::cdrom(400);
    rig.disk.resize(800);
    rig.worker.borrow().resized();
    let (_, capacity) = rig.packet_in(64, &[0x25]);
    assert_eq!(capacity[..4], [0, 0, 0, 199]);
    let (_, reply) = rig.packet_in(2048, &read(199, 1));
    assert_eq!(reply, rig.disk.sectors(796, 4));
}
