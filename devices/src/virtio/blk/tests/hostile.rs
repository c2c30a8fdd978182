//! Drivers that break the rules: the device answers with an error or asks for a reset, and goes on
//! working after it.

use virtio_bindings::virtio_blk::*;

use super::{
    bench::{HIGH, HIGH_LEN, LOW_LEN, info},
    driver::*,
};

/// A piece of a request: address, length, flags.
type Piece = (u64, u32, u16);

const NEEDS_RESET: u8 = 0x40;

/// Runs what `prepare` puts into the ring, expects the device to ask for a reset (with an
/// interrupt), and to work once that is done.
fn breaks(name: &str, prepare: impl FnOnce(&mut Driver)) {
    let mut driver = Driver::new();
    driver.header(VIRTIO_BLK_T_IN, 0);
    prepare(&mut driver);
    driver.kick(0);
    assert_eq!(driver.status(), 0xf | NEEDS_RESET, "{name}");
    assert_eq!(driver.host.vector(1).take_signals(), 1, "{name}");
    assert_eq!(driver.take_used(), [], "{name}");
    assert_eq!(driver.disk.take_log(), [], "{name}");
    driver.kick(0);
    driver.common_write(20, &[0xf]);
    assert_eq!(driver.status(), 0xf | NEEDS_RESET, "only a reset helps");
    driver.common_write(20, &[0]);
    driver.run();
    assert_eq!(driver.status(), 0, "{name}");
    driver.start(ALL);
    assert_eq!(driver.read_sectors(0, 512), (0, 513), "{name}");
}

fn breaks_with(name: &str, descriptors: &[Desc]) {
    breaks(name, |driver| {
        driver.describe(0, descriptors);
        driver.offer(0);
    });
}

#[test]
fn chains_that_are_none() {
    let head = Desc(HEADER, 16, NEXT, 1);
    let status = Desc(STATUS, 1, WRITE, 0);
    breaks_with("loop of one", &[Desc(HEADER, 16, NEXT, 0)]);
    breaks_with("loop of two", &[head, Desc(DATA, 512, WRITE | NEXT, 0)]);
    breaks_with("next outside", &[Desc(HEADER, 16, NEXT, SIZE)]);
    breaks_with("next far outside", &[Desc(HEADER, 16, NEXT, 0xffff)]);
    breaks_with(
        "readable after writable",
        &[
            head,
            Desc(DATA, 512, WRITE | NEXT, 2),
            Desc(DATA, 512, NEXT, 3),
            status,
        ],
    );
    breaks_with(
        "4 GiB and more",
        &[
            head,
            Desc(DATA, u32::MAX, WRITE | NEXT, 2),
            Desc(DATA, u32::MAX, WRITE | NEXT, 3),
            status,
        ],
    );
}

#[test]
fn answers_that_cannot_be_given() {
    let head = Desc(HEADER, 16, NEXT, 1);
    breaks_with("nothing writable", &[Desc(HEADER, 16, 0, 0)]);
    breaks_with("empty status", &[head, Desc(STATUS, 0, WRITE, 0)]);
    for address in [LOW_LEN as u64, HIGH + HIGH_LEN as u64, u64::MAX, 1 << 63] {
        breaks_with("status outside", &[head, Desc(address, 1, WRITE, 0)]);
    }
    let wrapping = Desc(u64::MAX - 3, 8, WRITE, 0);
    breaks_with("status beyond 2^64", &[head, wrapping]);
}

#[test]
fn indirect_tables_that_are_none() {
    let table = |len, flags| Desc(TABLE, len, INDIRECT | flags, 1);
    let nested = [Desc(HEADER, 16, NEXT, 1), Desc(TABLE, 32, INDIRECT, 0)];
    breaks("nested", |driver| {
        driver.describe_at(TABLE, &nested);
        driver.describe(0, &[table(32, 0)]);
        driver.offer(0);
    });
    breaks("longer than the ring", |driver| {
        let read = Desc(HEADER, 16, NEXT, 1);
        let mut long: Vec<Desc> = (0..SIZE)
            .map(|i| Desc(DATA, 1, WRITE | NEXT, i + 1))
            .collect();
        long[0] = read;
        long.push(Desc(STATUS, 1, WRITE, 0));
        driver.describe_at(TABLE, &long);
        driver.describe(0, &[table(16 * long.len() as u32, 0)]);
        driver.offer(0);
    });
    for len in [0, 1, 15, 17, 16 * 0x1_0000, u32::MAX] {
        breaks_with("bad length", &[table(len, 0)]);
    }
    for address in [LOW_LEN as u64, u64::MAX - 15, 1 << 63] {
        breaks_with("outside", &[Desc(address, 32, INDIRECT, 0)]);
    }
    breaks("over the end", |driver| {
        let at = LOW_LEN as u64 - 16;
        driver.describe_at(at, &[Desc(HEADER, 16, NEXT, 1)]);
        driver.describe(0, &[Desc(at, 32, INDIRECT, 0)]);
        driver.offer(0);
    });
    breaks("loop", |driver| {
        driver.describe_at(TABLE, &[Desc(HEADER, 16, NEXT, 0)]);
        driver.describe(0, &[table(16, 0)]);
        driver.offer(0);
    });
}

#[test]
fn indices_that_jump() {
    for index in [SIZE + 1, 0x8000, 0xffff] {
        breaks("available index", |driver| {
            driver.put(AVAIL + 2, &index.to_le_bytes());
        });
    }
    for head in [SIZE, 0x8000, 0xffff] {
        breaks("head", |driver| {
            driver.offer(head);
        });
    }
}

#[test]
fn rings_outside_memory() {
    let outside = [
        LOW_LEN as u64 - 16,
        LOW_LEN as u64,
        HIGH + HIGH_LEN as u64 - 4,
        1 << 63,
        !0xfff,
        // Misaligned.
        AVAIL + 1,
    ];
    for (area, address) in [32, 40, 48]
        .into_iter()
        .flat_map(|area| outside.map(|address| (area, address)))
    {
        let mut driver = Driver::unready(info(), 1);
        driver.enable_msix();
        driver.common_write(20, &[3]);
        let offered = driver.offered();
        driver.accept(offered);
        driver.common_write(20, &[0xb]);
        driver.common_write(16, &1u16.to_le_bytes());
        driver.set_up_queue(0);
        driver.common_write(area, &address.to_le_bytes());
        driver.common_write(20, &[0xf]);
        driver.kick(0);
        assert_eq!(driver.status(), 0xf | NEEDS_RESET, "{area} {address:#x}");
        assert_eq!(driver.host.vector(1).take_signals(), 1);
        driver.common_write(20, &[0]);
        driver.run();
        driver.start(ALL);
        assert_eq!(driver.read_sectors(0, 512), (0, 513));
    }
}

#[test]
fn requests_that_make_no_sense_are_errors() {
    let mut driver = Driver::new();
    let read = VIRTIO_BLK_T_IN;
    let write = VIRTIO_BLK_T_OUT;
    let end = LOW_LEN as u64;
    let cases: &[(&str, u32, &[Piece])] = &[
        ("read into readable", read, &[(DATA, 512, 0)]),
        ("write from writable", write, &[(DATA, 512, WRITE)]),
        ("read without data", read, &[]),
        ("write without data", write, &[]),
        (
            "write with answer",
            write,
            &[(DATA, 512, 0), (DATA, 512, WRITE)],
        ),
        ("read outside", read, &[(end, 512, WRITE)]),
        ("read over the end", read, &[(end - 511, 512, WRITE)]),
        ("write from outside", write, &[(end - 1, 512, 0)]),
        ("read beyond 2^64", read, &[(u64::MAX - 511, 512, WRITE)]),
        ("huge", read, &[(DATA, u32::MAX - 17, WRITE)]),
        ("discard outside", VIRTIO_BLK_T_DISCARD, &[(end, 16, 0)]),
        ("id outside", VIRTIO_BLK_T_GET_ID, &[(end, 20, WRITE)]),
    ];
    for (name, kind, pieces) in cases {
        let (status, _) = driver.request(*kind, 0, pieces);
        assert_eq!(status, VIRTIO_BLK_S_IOERR as u8, "{name}");
    }
    assert_eq!(driver.status(), 0xf);
    assert_eq!(driver.disk.take_log(), []);
}

#[test]
fn a_short_or_unreadable_header_is_an_error() {
    let mut driver = Driver::new();
    for (address, len) in [(HEADER, 15), (LOW_LEN as u64 - 8, 16), (1 << 63, 16)] {
        driver.header(VIRTIO_BLK_T_IN, 0);
        driver.chain(
            0,
            &[(address, len, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)],
        );
        assert_eq!(driver.run_chain(), (VIRTIO_BLK_S_IOERR as u8, 0));
    }
    driver.header(VIRTIO_BLK_T_IN, 0);
    driver.chain(0, &[(STATUS, 1, WRITE)]);
    assert_eq!(driver.run_chain(), (VIRTIO_BLK_S_IOERR as u8, 1));
}

#[test]
fn a_ring_that_breaks_lets_what_is_in_flight_end() {
    let mut driver = Driver::new();
    driver.disk.hold.set(true);
    driver.header(VIRTIO_BLK_T_OUT, 0);
    driver.chain(0, &[(HEADER, 16, 0), (DATA, 512, 0), (STATUS, 1, WRITE)]);
    driver.offer(0);
    driver.kick(0);
    driver.offer(0xffff);
    driver.kick(0);
    assert_eq!(driver.status(), 0xf | NEEDS_RESET);
    driver.disk.release(1);
    driver.run();
    assert_eq!(driver.worker.borrow().in_flight(), 0);
    assert_eq!(driver.take_used(), [], "a broken ring is left alone");
    driver.common_write(20, &[0]);
    driver.run();
    assert_eq!(driver.status(), 0);
}

#[test]
fn a_segment_is_as_long_as_the_driver_was_told_at_most() {
    let large = || strata_block::disk::DiskInfo {
        size: 2 << 20,
        ..info()
    };
    const MOST: u32 = 1 << 20;
    let mut driver = Driver::with(large(), 1, ALL);
    assert_eq!(driver.read_sectors(0, MOST), (0, MOST + 1));
    assert_eq!(driver.write_sectors(0, MOST), (0, 1));
    driver.disk.take_log();
    assert_eq!(driver.read_sectors(0, MOST + 512).0, 1);
    assert_eq!(driver.write_sectors(0, MOST + 512).0, 1);
    assert_eq!(driver.disk.take_log(), []);
    // One that has not looked at the limit does not know.
    let mut driver = Driver::with(large(), 1, ALL & !(1 << VIRTIO_BLK_F_SIZE_MAX));
    assert_eq!(driver.read_sectors(0, MOST + 512), (0, MOST + 513));
}
