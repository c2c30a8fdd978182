//! Random rings, descriptors and kicks: the worker comes to rest, never panics, and writes nothing
//! but the used ring and what was described to it as writable.

use proptest::{collection::vec, prelude::*};

use super::{
    bench::{HIGH, HIGH_LEN, LOW_LEN, info},
    driver::*,
};

/// Nothing describes this page, so nothing may write to it.
const CANARY: u64 = 0x3f_0000;
const CANARY_LEN: usize = 0x1000;

fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => Just(HEADER),
        4 => (0..0x8000u64).prop_map(|offset| DATA + offset),
        2 => Just(STATUS),
        2 => (0..64u64).prop_map(|index| TABLE + index * 16),
        1 => (0..0x200u64).prop_map(|offset| HIGH + HIGH_LEN as u64 - offset),
        1 => Just(LOW_LEN as u64),
        1 => any::<u64>().prop_map(|wild| wild | 1 << 40),
    ]
}

fn len() -> impl Strategy<Value = u32> {
    prop_oneof![
        4 => Just(16u32),
        4 => Just(512),
        3 => Just(1),
        2 => (0..4u32).prop_map(|n| n * 16),
        2 => 0..0x4000u32,
        1 => any::<u32>(),
    ]
}

fn descriptor() -> impl Strategy<Value = Desc> {
    let flags = prop_oneof![
        4 => Just(NEXT),
        4 => Just(WRITE | NEXT),
        3 => Just(WRITE),
        1 => Just(0),
        1 => Just(INDIRECT),
        1 => any::<u16>(),
    ];
    let next = prop_oneof![8 => 0..32u16, 1 => any::<u16>()];
    (address(), len(), flags, next).prop_map(|(a, l, f, n)| Desc(a, l, f, n))
}

/// A chain that means something, for random ones to stand beside.
fn sensible() -> impl Strategy<Value = [Desc; 3]> {
    (any::<bool>(), 0..16u16, 1..8u32).prop_map(|(write, first, blocks)| {
        let flags = if write { NEXT } else { WRITE | NEXT };
        [
            Desc(HEADER, 16, NEXT, first + 1),
            Desc(DATA, blocks * 512, flags, first + 2),
            Desc(STATUS, 1, WRITE, 0),
        ]
    })
}

#[derive(Debug, Clone)]
enum Step {
    Describe(u16, Vec<Desc>),
    Table(Vec<Desc>),
    Header(u32, u64),
    Ranges(Vec<u8>),
    Offer(u16),
    Index(u16),
    Kick,
    Hold(bool),
    Release(usize),
    Stop(bool),
    Reset,
    Register(u64, u64, usize),
    Config(u8, u32),
}

/// A write to the BAR: offset, value, logarithm of the width.
fn register() -> impl Strategy<Value = (u64, u64, usize)> {
    let offset = (0..6u64, 0..0x40u64).prop_map(|(page, at)| page * 0x1000 + at);
    (offset, any::<u64>(), 0..4usize)
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![8 => 0..14u32, 1 => any::<u32>()];
    let sector = prop_oneof![8 => 0..2100u64, 1 => any::<u64>()];
    let head = prop_oneof![12 => 0..32u16, 1 => any::<u16>()];
    prop_oneof![
        6 => (0..32u16, vec(descriptor(), 1..6)).prop_map(|(at, d)| Step::Describe(at, d)),
        3 => sensible().prop_map(|chain| Step::Describe(chain[0].3 - 1, chain.to_vec())),
        2 => vec(descriptor(), 1..6).prop_map(Step::Table),
        4 => (kind, sector).prop_map(|(kind, sector)| Step::Header(kind, sector)),
        1 => vec(any::<u8>(), 16..64).prop_map(Step::Ranges),
        10 => head.prop_map(Step::Offer),
        1 => any::<u16>().prop_map(Step::Index),
        8 => Just(Step::Kick),
        1 => any::<bool>().prop_map(Step::Hold),
        2 => (0..8usize).prop_map(Step::Release),
        1 => any::<bool>().prop_map(Step::Stop),
        2 => Just(Step::Reset),
        1 => register().prop_map(|(at, value, width)| Step::Register(at, value, width)),
        1 => (0..64u8, any::<u32>()).prop_map(|(at, value)| Step::Config(at * 4, value)),
    ]
}

fn take(driver: &mut Driver, step: Step) {
    match step {
        Step::Describe(at, descriptors) => driver.describe(at, &descriptors),
        Step::Table(descriptors) => driver.describe_at(TABLE, &descriptors),
        Step::Header(kind, sector) => driver.header(kind, sector),
        Step::Ranges(bytes) => driver.put(DATA, &bytes),
        Step::Offer(head) => driver.offer(head),
        Step::Index(index) => driver.put(AVAIL + 2, &index.to_le_bytes()),
        Step::Kick => driver.kick(0),
        Step::Hold(hold) => driver.disk.hold.set(hold),
        Step::Release(count) => driver.disk.release(count),
        Step::Stop(true) => driver.worker.borrow_mut().stop(),
        Step::Stop(false) => driver.worker.borrow_mut().cont(),
        Step::Reset => recover(driver),
        Step::Register(offset, value, width) => {
            let at = driver.bar + offset;
            driver.mmio_write(at, &value.to_le_bytes()[..1 << width]);
        }
        Step::Config(at, value) => driver.config_write(at, &value.to_le_bytes()),
    }
    driver.run();
}

/// Resets the device, by the machine's reset if the driver has lost its registers, and starts it
/// again.
fn recover(driver: &mut Driver) {
    driver.worker.borrow_mut().cont();
    let home = (driver.bar as u32 | 4).to_le_bytes();
    let found = driver.config_read(0x10) == home && driver.config_read(0x14) == [0; 4];
    let [command] = driver.config_read::<1>(4);
    if found && command & 6 == 6 {
        driver.common_write(20, &[0]);
    } else {
        driver.root.lock().unwrap().reset();
        driver.config_write(4, &[6, 0]);
    }
    driver.run();
    driver.disk.release(usize::MAX);
    driver.run();
    assert_eq!(driver.status(), 0, "a reset always ends");
    assert_eq!(driver.worker.borrow().in_flight(), 0);
    driver.enable_msix();
    driver.start(ALL);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_worker_survives_any_driver(steps in vec(step(), 1..60)) {
        let mut driver = Driver::with(info(), 1, ALL);
        driver.put(CANARY, &[0x77; CANARY_LEN]);
        for step in steps {
            take(&mut driver, step);
        }
        prop_assert!(driver.worker.borrow().in_flight() <= usize::from(SIZE));
        driver.disk.hold.set(false);
        recover(&mut driver);
        prop_assert_eq!(driver.read_sectors(0, 512), (0, 513));
        prop_assert_eq!(driver.get::<CANARY_LEN>(CANARY), [0x77; CANARY_LEN]);
    }
}
