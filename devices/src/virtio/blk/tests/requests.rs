use strata_block::disk::Op;
use strata_storage::error::IoError;
use virtio_bindings::virtio_blk::*;

use super::{
    bench::{DISK_LEN, HIGH, info},
    disk::FakeDisk,
    driver::*,
};

const OK: u8 = VIRTIO_BLK_S_OK as u8;
const IOERR: u8 = VIRTIO_BLK_S_IOERR as u8;
const UNSUPP: u8 = VIRTIO_BLK_S_UNSUPP as u8;
const UNMAP: u32 = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

/// A request whose data is `bytes`, for the device to read.
fn give(driver: &mut Driver, kind: u32, bytes: &[u8]) -> u8 {
    driver.put(DATA, bytes);
    driver.request(kind, 0, &[(DATA, bytes.len() as u32, 0)]).0
}

#[test]
fn writes_and_reads_move_the_bytes() {
    let mut driver = Driver::new();
    let bytes: [u8; 1024] = std::array::from_fn(|i| (i / 3) as u8);
    driver.put(DATA, &bytes);
    assert_eq!(driver.write_sectors(5, 1024), (OK, 1));
    assert_eq!(driver.disk.bytes.borrow()[2560..3584], bytes);
    driver.put(DATA, &[0; 1024]);
    assert_eq!(driver.read_sectors(5, 1024), (OK, 1025));
    assert_eq!(driver.get::<1024>(DATA), bytes);
    let log = driver.disk.take_log();
    let write = Op::Write { fua: false };
    assert_eq!(log, [(write, 2560, 1024), (Op::Read, 2560, 1024)]);
}

#[test]
fn requests_for_parts_of_large_sectors_fail() {
    let mut large = info();
    (large.block_size, large.physical_block_size) = (4096, 4096);
    let mut driver = Driver::with(large, 1, u64::MAX);
    assert_eq!(driver.read_sectors(8, 4096), (OK, 4097));
    for (sector, len) in [(1, 4096), (8, 512), (8, 4096 + 512)] {
        assert_eq!(driver.read_sectors(sector, len).0, IOERR, "{sector} {len}");
        assert_eq!(driver.write_sectors(sector, len).0, IOERR, "{sector} {len}");
    }
    for kind in [VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES] {
        assert_eq!(give(&mut driver, kind, &range(8, 8, 0)), OK);
        assert_eq!(give(&mut driver, kind, &range(4, 8, 0)), IOERR);
        assert_eq!(give(&mut driver, kind, &range(8, 4, 0)), IOERR);
    }
}

#[test]
fn data_may_be_scattered_and_cross_into_other_regions() {
    let mut driver = Driver::new();
    for (i, byte) in driver.disk.bytes.borrow_mut().iter_mut().enumerate() {
        *byte = (i % 251) as u8;
    }
    let pieces = [
        (DATA + 3, 100, WRITE),
        (DATA + 0x1000, 0, WRITE),
        (HIGH, 411, WRITE),
        (DATA + 0x2001, 1, WRITE),
        (DATA + 0x3000, 512, WRITE),
    ];
    assert_eq!(driver.request(VIRTIO_BLK_T_IN, 0, &pieces), (OK, 1025));
    let expect: Vec<u8> = (0..1024).map(|i| (i % 251) as u8).collect();
    assert_eq!(driver.get::<100>(DATA + 3), expect[..100]);
    assert_eq!(driver.get::<411>(HIGH), expect[100..511]);
    assert_eq!(driver.get::<1>(DATA + 0x2001), expect[511..512]);
    assert_eq!(driver.get::<512>(DATA + 0x3000), expect[512..]);
}

#[test]
fn framing_is_free() {
    let mut driver = Driver::new();
    // Header in three pieces, the last of which holds data, too.
    driver.header(VIRTIO_BLK_T_OUT, 1);
    driver.put(HEADER + 16, &[7; 500]);
    driver.put(DATA, &[8; 12]);
    let pieces = [
        (HEADER, 3, 0),
        (HEADER + 3, 5, 0),
        (HEADER + 8, 8 + 500, 0),
        (DATA, 12, 0),
        (STATUS, 1, WRITE),
    ];
    driver.chain(0, &pieces);
    assert_eq!(driver.run_chain(), (OK, 1));
    assert_eq!(driver.disk.bytes.borrow()[512..1012], [7; 500]);
    assert_eq!(driver.disk.bytes.borrow()[1012..1024], [8; 12]);

    // Data and status byte in one piece.
    driver.header(VIRTIO_BLK_T_IN, 1);
    driver.chain(0, &[(HEADER, 16, 0), (STATUS - 512, 513, WRITE)]);
    assert_eq!(driver.run_chain(), (OK, 513));
    assert_eq!(driver.get::<500>(STATUS - 512), [7; 500]);
}

#[test]
fn flush_reaches_the_disk() {
    let mut driver = Driver::new();
    assert_eq!(driver.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
    assert_eq!(driver.disk.take_log(), [(Op::Flush, 0, 0)]);
}

#[test]
fn get_id_is_twenty_bytes_at_most() {
    let mut driver = Driver::new();
    driver.put(DATA, &[0xee; 30]);
    let answer = driver.request(VIRTIO_BLK_T_GET_ID, 0, &[(DATA, 20, WRITE)]);
    assert_eq!(answer, (OK, 21));
    assert_eq!(&driver.get::<20>(DATA), b"serial-number\0\0\0\0\0\0\0");
    assert_eq!(driver.get::<10>(DATA + 20), [0xee; 10]);

    let answer = driver.request(VIRTIO_BLK_T_GET_ID, 0, &[(DATA, 6, WRITE)]);
    assert_eq!((answer, &driver.get::<6>(DATA)), ((OK, 7), b"serial"));
    let answer = driver.request(VIRTIO_BLK_T_GET_ID, 0, &[(DATA, 30, WRITE)]);
    assert_eq!(answer, (OK, 20));
}

#[test]
fn discard_takes_several_ranges() {
    let mut driver = Driver::new();
    let ranges = [range(8, 16, 0), range(64, 1, 0)].concat();
    assert_eq!(give(&mut driver, VIRTIO_BLK_T_DISCARD, &ranges), OK);
    let log = driver.disk.take_log();
    assert_eq!(log, [(Op::Discard, 4096, 8192), (Op::Discard, 32768, 512)]);
}

#[test]
fn write_zeroes_carries_the_unmap_flag() {
    let mut driver = Driver::new();
    let ranges = [range(0, 8, UNMAP), range(8, 8, 0)].concat();
    assert_eq!(give(&mut driver, VIRTIO_BLK_T_WRITE_ZEROES, &ranges), OK);
    let zeroes = |unmap| Op::WriteZeroes { unmap };
    let log = driver.disk.take_log();
    assert_eq!(log, [(zeroes(true), 0, 4096), (zeroes(false), 4096, 4096)]);
}

#[test]
fn ranges_with_unknown_flags_or_sizes_change_nothing() {
    let mut driver = Driver::new();
    let good = range(0, 8, 0);
    let cases = [
        (VIRTIO_BLK_T_DISCARD, range(0, 8, UNMAP), UNSUPP),
        (VIRTIO_BLK_T_DISCARD, range(0, 8, 2), UNSUPP),
        (VIRTIO_BLK_T_WRITE_ZEROES, range(0, 8, 3), UNSUPP),
        (VIRTIO_BLK_T_WRITE_ZEROES, range(0, u32::MAX, 0), IOERR),
        (VIRTIO_BLK_T_WRITE_ZEROES, range(u64::MAX, 1, 0), IOERR),
        (VIRTIO_BLK_T_DISCARD, range(1 << 55, 8, 0), IOERR),
        (VIRTIO_BLK_T_DISCARD, vec![0; 15], IOERR),
        (VIRTIO_BLK_T_DISCARD, vec![0; 17], IOERR),
        (VIRTIO_BLK_T_DISCARD, good.repeat(33), IOERR),
    ];
    for (kind, mut bytes, expected) in cases {
        if expected == UNSUPP {
            bytes = [good.clone(), bytes].concat();
        }
        let status = give(&mut driver, kind, &bytes);
        assert_eq!(status, expected, "{kind} {bytes:?}");
    }
    assert_eq!(driver.request(VIRTIO_BLK_T_DISCARD, 0, &[]), (IOERR, 1));
    assert_eq!(driver.disk.take_log(), []);
}

#[test]
fn one_failed_range_fails_the_request() {
    let mut driver = Driver::new();
    let end = DISK_LEN / 512;
    let ranges = [range(end, 1, 0), range(0, 1, 0)].concat();
    assert_eq!(give(&mut driver, VIRTIO_BLK_T_DISCARD, &ranges), IOERR);
}

#[test]
fn unknown_requests_are_unsupported() {
    let mut driver = Driver::new();
    for kind in [2, 3, 5, 10, 14, 15, 0x8000_0000, u32::MAX] {
        let answer = driver.request(kind, 0, &[(DATA, 512, WRITE)]);
        assert_eq!(answer, (UNSUPP, 0), "{kind:#x}");
    }
    assert_eq!(driver.disk.take_log(), []);
}

#[test]
fn what_lies_outside_the_disk_is_an_error() {
    let mut driver = Driver::new();
    let end = DISK_LEN / 512;
    assert_eq!(driver.read_sectors(end - 1, 512), (OK, 513));
    for sector in [end, end - 1, 1 << 55, u64::MAX, (1 << 55) - 1] {
        assert_eq!(driver.read_sectors(sector, 1024), (IOERR, 0), "{sector:#x}");
        assert_eq!(driver.write_sectors(sector, 1024), (IOERR, 1));
    }
    assert_eq!(driver.read_sectors(0, 511), (IOERR, 0), "part of a sector");
    assert_eq!(driver.disk.take_log().len(), 1);
}

#[test]
fn errors_of_the_disk_become_a_status() {
    let mut driver = Driver::new();
    driver.disk.fail.replace(Some(IoError::Cancelled));
    assert_eq!(driver.read_sectors(0, 512), (IOERR, 0));
    driver.disk.fail.replace(Some(FakeDisk::unsupported()));
    assert_eq!(driver.write_sectors(0, 512), (UNSUPP, 1));
}

#[test]
fn a_read_only_disk_says_so_and_refuses_writes() {
    let mut disk = info();
    disk.read_only = true;
    let mut driver = Driver::with(disk, 1, ALL);
    let offered = driver.offered();
    assert_ne!(offered & 1 << VIRTIO_BLK_F_RO, 0);
    assert_eq!(offered & 1 << VIRTIO_BLK_F_DISCARD, 0);
    assert_eq!(offered & 1 << VIRTIO_BLK_F_WRITE_ZEROES, 0);
    assert_eq!(driver.write_sectors(0, 512), (IOERR, 1));
    let status = give(&mut driver, VIRTIO_BLK_T_WRITE_ZEROES, &range(0, 1, 0));
    assert_eq!(status, IOERR);
    assert_eq!(driver.read_sectors(0, 512), (OK, 513));
    assert_eq!(driver.request(VIRTIO_BLK_T_FLUSH, 0, &[]), (OK, 1));
}

#[test]
fn without_flush_every_change_is_durable_before_the_answer() {
    let mut driver = Driver::with(info(), 1, !(1 << VIRTIO_BLK_F_FLUSH));
    driver.write_sectors(0, 512);
    give(&mut driver, VIRTIO_BLK_T_WRITE_ZEROES, &range(0, 1, 0));
    let expected = [
        (Op::Write { fua: true }, 0, 512),
        (Op::WriteZeroes { unmap: false }, 0, 512),
        (Op::Flush, 0, 0),
    ];
    assert_eq!(driver.disk.take_log(), expected);
    let writeback = driver.bar + 0x2000 + 32;
    driver.mmio_write(writeback, &[1]);
    assert_eq!(driver.mmio_read(writeback), [0], "stays writethrough");
}

#[test]
fn the_driver_may_turn_the_write_cache_off_and_on() {
    let mut driver = Driver::new();
    let writeback = driver.bar + 0x2000 + 32;
    assert_eq!(driver.mmio_read(writeback), [1]);
    for (value, fua) in [(0, true), (1, false)] {
        driver.mmio_write(writeback, &[value]);
        driver.write_sectors(0, 512);
        assert_eq!(driver.disk.take_log(), [(Op::Write { fua }, 0, 512)]);
    }
    driver.mmio_write(writeback, &[0]);
    driver.common_write(20, &[0]);
    driver.run();
    assert_eq!(driver.mmio_read(writeback), [1], "a reset turns it on");
}

#[test]
fn without_config_wce_the_field_is_read_only() {
    let mut driver = Driver::with(info(), 1, !(1 << VIRTIO_BLK_F_CONFIG_WCE));
    let writeback = driver.bar + 0x2000 + 32;
    driver.mmio_write(writeback, &[0]);
    driver.write_sectors(0, 512);
    assert_eq!(driver.disk.take_log(), [(Op::Write { fua: false }, 0, 512)]);
}
