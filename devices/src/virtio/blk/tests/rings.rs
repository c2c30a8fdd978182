use std::{cell::Cell, rc::Rc};

use strata_exec::Queue;
use virtio_bindings::{
    virtio_blk::*,
    virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VRING_AVAIL_F_NO_INTERRUPT},
};

use vm_memory::{Bytes, GuestAddress};

use super::{bench::info, driver::*};

const NO_EVENT_IDX: u64 = !(1 << VIRTIO_RING_F_EVENT_IDX);
/// `used_event` lies after the available ring, `avail_event` after the used ring.
const USED_EVENT: u64 = AVAIL + 4 + 2 * SIZE as u64;
const AVAIL_EVENT: u64 = USED + 4 + 8 * SIZE as u64;

/// Makes chain `first` a read of sector 0, with a status byte of its own.
fn prepare_read(driver: &mut Driver, first: u16) {
    driver.header(VIRTIO_BLK_T_IN, 0);
    let status = STATUS + u64::from(first);
    driver.put(status, &[UNTOUCHED]);
    let data = (DATA, 512, WRITE);
    driver.chain(first, &[(HEADER, 16, 0), data, (status, 1, WRITE)]);
}

fn signals(driver: &Driver) -> u64 {
    driver.host.vector(0).take_signals()
}

#[test]
fn indirect_tables_work_like_direct_chains() {
    let mut driver = Driver::new();
    driver.disk.bytes.borrow_mut().fill(9);
    driver.header(VIRTIO_BLK_T_IN, 0);
    let table = [
        Desc(HEADER, 16, NEXT, 2),
        Desc(STATUS, 1, WRITE, 0),
        Desc(DATA, 1024, WRITE | NEXT, 1),
    ];
    // Anywhere: an indirect table has no alignment.
    driver.describe_at(TABLE + 3, &table);
    driver.describe(0, &[Desc(TABLE + 3, 48, INDIRECT, 0)]);
    assert_eq!(driver.run_chain(), (0, 1025));
    assert_eq!(driver.get::<1024>(DATA), [9; 1024]);
}

#[test]
fn completions_go_into_the_ring_in_the_order_they_end() {
    let mut driver = Driver::new();
    driver.disk.hold.set(true);
    for first in [0, 3, 6] {
        prepare_read(&mut driver, first);
        driver.offer(first);
    }
    driver.kick(0);
    assert_eq!(driver.worker.borrow().in_flight(), 3);
    assert_eq!(driver.take_used(), []);
    driver.disk.release(1);
    assert_eq!(driver.take_used(), [(0, 513)]);
    driver.disk.release(2);
    assert_eq!(driver.take_used(), [(3, 513), (6, 513)]);
    assert_eq!(driver.worker.borrow().in_flight(), 0);
}

#[test]
fn a_turn_signals_once_and_a_late_completion_at_once() {
    let mut driver = Driver::with(info(), 1, NO_EVENT_IDX);
    for first in [0, 3, 6] {
        prepare_read(&mut driver, first);
        driver.offer(first);
    }
    driver.kick(0);
    assert_eq!(signals(&driver), 1);
    driver.disk.hold.set(true);
    driver.offer(0);
    driver.offer(3);
    driver.kick(0);
    assert_eq!(signals(&driver), 0);
    driver.disk.release(1);
    assert_eq!(signals(&driver), 1);
    driver.disk.release(1);
    assert_eq!(signals(&driver), 1);
}

#[test]
fn what_ends_in_one_turn_of_the_executor_is_signalled_once_and_before_a_job() {
    let mut driver = Driver::with(info(), 1, NO_EVENT_IDX);
    prepare_read(&mut driver, 0);
    driver.disk.hold.set(true);
    for _ in 0..6 {
        driver.offer(0);
    }
    driver.kick(0);
    let (exec, disk) = (driver.exec.clone(), driver.disk.clone());
    for count in [1, 2] {
        let disk = disk.clone();
        exec.spawn(Queue::Guest, async move { disk.release(count) });
    }
    exec.poll();
    assert_eq!((signals(&driver), driver.take_used().len()), (1, 3));
    // A job's step may be long.
    let (seen, vector) = (Rc::new(Cell::new(0)), driver.host.vector(0));
    let at_job = seen.clone();
    exec.spawn(Queue::Guest, async move { disk.release(2) });
    exec.spawn(Queue::Job, async move { at_job.set(vector.take_signals()) });
    exec.poll();
    assert_eq!((seen.get(), signals(&driver)), (1, 0));
    driver.disk.release(1);
    assert_eq!(signals(&driver), 1, "nobody would come back to it");
    assert_eq!(driver.take_used().len(), 3);
}

#[test]
fn a_driver_that_wants_no_interrupts_gets_none() {
    let mut driver = Driver::with(info(), 1, NO_EVENT_IDX);
    driver.put(AVAIL, &(VRING_AVAIL_F_NO_INTERRUPT as u16).to_le_bytes());
    driver.read_sectors(0, 512);
    assert_eq!(signals(&driver), 0);
    driver.put(AVAIL, &[0, 0]);
    driver.read_sectors(0, 512);
    assert_eq!(signals(&driver), 1);
}

#[test]
fn used_event_says_when_to_signal() {
    let mut driver = Driver::new();
    driver.put(USED_EVENT, &2u16.to_le_bytes());
    driver.read_sectors(0, 512);
    driver.read_sectors(0, 512);
    assert_eq!(signals(&driver), 0);
    driver.read_sectors(0, 512);
    assert_eq!(signals(&driver), 1, "the entry that used_event names");
    driver.read_sectors(0, 512);
    assert_eq!(signals(&driver), 0);
}

#[test]
fn event_indices_wrap_at_65536() {
    const BATCH: u16 = 250;
    let mut driver = Driver::new();
    prepare_read(&mut driver, 0);
    let mut used = 0u16;
    for _ in 0..66_000 / u32::from(BATCH) {
        // The last entry of the batch, which may lie on the other side of the wrap.
        let last = used.wrapping_add(BATCH - 1);
        driver.put(USED_EVENT, &last.to_le_bytes());
        for _ in 0..BATCH {
            driver.offer(0);
        }
        driver.kick(0);
        used = used.wrapping_add(BATCH);
        assert_eq!(driver.take_used().len(), usize::from(BATCH));
        assert_eq!(signals(&driver), 1, "up to {used}");
        assert_eq!(driver.get(AVAIL_EVENT), used.to_le_bytes());
        // Passed already: it comes again after 65535 others.
        driver.put(USED_EVENT, &last.to_le_bytes());
        driver.read_sectors(0, 512);
        used = used.wrapping_add(1);
        assert_eq!(signals(&driver), 0, "at {used}");
        prepare_read(&mut driver, 0);
    }
}

#[test]
fn any_used_event_is_a_wish_and_nothing_else() {
    let mut driver = Driver::new();
    let mut expected = 0;
    for (used, event) in (0u16..).zip([0, 0, 1, 3, u16::MAX, 0x8000, 6, 5, u16::MAX - 1, 9]) {
        driver.put(USED_EVENT, &event.to_le_bytes());
        assert_eq!(driver.read_sectors(0, 512), (0, 513));
        expected += u64::from(event == used);
    }
    assert_eq!((signals(&driver), driver.status() & 0x40), (expected, 0));
}

#[test]
fn avail_event_follows_what_was_fetched() {
    let mut driver = Driver::new();
    for expected in 1..=5u16 {
        driver.read_sectors(0, 512);
        assert_eq!(driver.get(AVAIL_EVENT), expected.to_le_bytes());
    }
}

#[test]
fn the_ring_wraps_many_times() {
    let mut driver = Driver::new();
    for _ in 0..3 * u32::from(SIZE) + 7 {
        assert_eq!(driver.read_sectors(0, 512), (0, 513));
    }
}

#[test]
fn index_wrap_at_65536_is_no_event() {
    let mut driver = Driver::with(info(), 1, NO_EVENT_IDX);
    prepare_read(&mut driver, 0);
    for _ in 0..66_000 / 250 {
        for _ in 0..250 {
            driver.offer(0);
        }
        driver.kick(0);
        assert_eq!(driver.take_used().len(), 250);
    }
    assert_eq!(driver.read_sectors(0, 512), (0, 513));
}

#[test]
fn no_more_than_the_queues_size_is_in_flight() {
    let mut driver = Driver::new();
    driver.disk.hold.set(true);
    prepare_read(&mut driver, 0);
    for _ in 0..SIZE {
        driver.offer(0);
    }
    driver.kick(0);
    // A driver that reuses entries which the device has not completed.
    for _ in 0..3 {
        driver.offer(0);
    }
    driver.kick(0);
    assert_eq!(driver.worker.borrow().in_flight(), usize::from(SIZE));
    driver.disk.release(2);
    driver.run();
    assert_eq!(driver.take_used().len(), 2);
    assert_eq!(driver.worker.borrow().in_flight(), usize::from(SIZE));
    driver.disk.release(1000);
    driver.run();
    assert_eq!(driver.worker.borrow().in_flight(), 1);
    driver.disk.release(1);
    assert_eq!(driver.worker.borrow().in_flight(), 0);
}

#[test]
fn a_guest_that_never_pauses_gives_others_their_turn() {
    const MORE: u16 = 600;
    let mut driver = Driver::with(info(), 1, NO_EVENT_IDX);
    prepare_read(&mut driver, 0);
    driver.offer(0);
    let memory = driver.memory.clone();
    let mut index = 1u16;
    *driver.disk.on_submit.borrow_mut() = Box::new(move || {
        if index < MORE {
            index += 1;
            memory.write_obj(index, GuestAddress(AVAIL + 2)).unwrap();
        }
    });
    driver.host.write(driver.bar + NOTIFY);
    driver.turn();
    assert_eq!(driver.disk.take_log().len(), usize::from(SIZE));
    driver.run();
    assert_eq!(driver.disk.take_log().len(), usize::from(MORE - SIZE));
}

#[test]
fn a_stopped_machine_fetches_nothing_and_remembers_kicks() {
    let mut driver = Driver::new();
    driver.disk.hold.set(true);
    prepare_read(&mut driver, 0);
    prepare_read(&mut driver, 3);
    driver.offer(0);
    driver.kick(0);
    driver.worker.borrow_mut().stop();
    driver.offer(3);
    driver.kick(0);
    assert_eq!(driver.worker.borrow().in_flight(), 1);
    assert!(!driver.worker.borrow().is_idle());
    driver.disk.release(1);
    driver.run();
    assert!(driver.worker.borrow().is_idle(), "drained");
    assert_eq!(driver.take_used(), [(0, 513)]);
    driver.worker.borrow_mut().cont();
    assert_eq!(driver.worker.borrow().in_flight(), 1);
    driver.disk.release(1);
    assert_eq!(driver.take_used(), [(3, 513)]);
}

#[test]
fn every_queue_has_its_ring_doorbell_and_vector() {
    let mut driver = Driver::with(info(), 3, ALL);
    assert_ne!(driver.offered() & 1 << VIRTIO_BLK_F_MQ, 0);
    let queues: [u8; 2] = driver.bar_read(0x2000 + 34);
    assert_eq!(queues, [3, 0]);
    assert_eq!(driver.common_read(18), [3, 0]);
    prepare_read(&mut driver, 0);
    let table: [u8; 48] = driver.get(DESC);
    driver.put(DESC + 2 * QUEUE_STRIDE, &table);
    driver.offer_on(2, 0);
    driver.kick(1);
    assert_eq!(driver.take_used_on(2), []);
    driver.kick(2);
    assert_eq!(driver.take_used_on(2), [(0, 513)]);
    let signals: Vec<u64> = (0..4)
        .map(|vector| driver.host.vector(vector).take_signals())
        .collect();
    assert_eq!(signals, [0, 0, 1, 0]);
}
