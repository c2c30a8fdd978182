//! A guest on its own thread that sleeps whenever event indices say it may: a kick or an interrupt
//! that gets lost hangs it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering, fence},
    },
    thread,
    time::{Duration, Instant},
};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::{bench::info, driver::*};
use crate::{
    pci::doubles::{FakeHost, FakeVector},
    virtio::blk::BlkWorkerParts,
};

const ROUNDS: u16 = 20_000;
const USED_EVENT: u64 = AVAIL + 4 + 2 * SIZE as u64;
const AVAIL_EVENT: u64 = USED + 4 + 8 * SIZE as u64;

struct Guest {
    memory: Arc<GuestMemoryMmap>,
    host: Arc<FakeHost>,
    vector: Arc<FakeVector>,
    doorbell: u64,
}

impl Guest {
    fn load(&self, address: u64) -> u16 {
        let order = Ordering::Acquire;
        self.memory.load(GuestAddress(address), order).unwrap()
    }

    fn store(&self, address: u64, value: u16) {
        let order = Ordering::Release;
        self.memory
            .store(value, GuestAddress(address), order)
            .unwrap();
    }

    /// Offers chain 0 as entry `index` and kicks if the device asked for it.
    fn offer(&self, index: u16) {
        self.store(AVAIL + 4 + 2 * u64::from(index % SIZE), 0);
        self.store(AVAIL + 2, index.wrapping_add(1));
        fence(Ordering::SeqCst);
        if self.load(AVAIL_EVENT) == index {
            assert!(self.host.write(self.doorbell));
        }
    }

    /// Waits until the device has used entry `index`: wakes on interrupts only, or keeps looking.
    fn wait(&self, index: u16, sleep: bool) {
        let patience = Instant::now() + Duration::from_secs(30);
        if sleep {
            self.store(USED_EVENT, index);
            fence(Ordering::SeqCst);
        }
        while self.load(USED + 2) == index {
            assert!(Instant::now() < patience, "entry {index} never came back");
            while sleep && self.vector.take_signals() == 0 {
                assert!(Instant::now() < patience, "no interrupt for {index}");
                thread::yield_now();
            }
        }
    }
}

#[test]
fn no_kick_and_no_interrupt_gets_lost() {
    let mut driver = Driver::with(info(), 1, ALL);
    driver.header(0, 0);
    let data = (DATA, 512, WRITE);
    driver.chain(0, &[(HEADER, 16, 0), data, (STATUS, 1, WRITE)]);
    let guest = Guest {
        memory: driver.memory.clone(),
        host: driver.host.clone(),
        vector: driver.host.vector(0),
        doorbell: driver.bar + NOTIFY,
    };
    let done = Arc::new(AtomicBool::new(false));
    let finished = done.clone();
    let thread = thread::spawn(move || {
        for index in 0..ROUNDS {
            guest.offer(index);
            guest.wait(index, index % 16 == 0);
        }
        finished.store(true, Ordering::SeqCst);
    });
    while !done.load(Ordering::SeqCst) && !thread.is_finished() {
        driver.turn();
    }
    thread.join().unwrap();
}

#[test]
fn the_parts_may_travel_to_the_device_thread() {
    fn travels<T: Send>() {}
    travels::<BlkWorkerParts>();
}
