use std::sync::{Arc, Mutex};

use super::{Bus, BusDevice};

/// Remembers what was written and reads it back from any offset.
struct Latch(u8);

impl BusDevice for Latch {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(self.0 + offset as u8);
    }
    fn write(&mut self, _offset: u64, data: &[u8]) {
        self.0 = data[0];
    }
}

fn read(bus: &Bus, address: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    bus.read(address, &mut data);
    data
}

#[test]
fn decodes_ranges_and_floats_elsewhere() {
    let mut bus = Bus::default();
    bus.insert(0x1f0, 8, Arc::new(Mutex::new(Latch(5))))
        .unwrap();
    bus.write(0x1f3, &[7]);
    assert_eq!(read(&bus, 0x1f1, 1), [8]);
    assert_eq!(read(&bus, 0x1ef, 1), [0xff]);
    assert_eq!(
        read(&bus, 0x1f7, 2),
        [0xff, 0xff],
        "an access across the end meets no device"
    );
    assert!(bus.remove(0x1f0));
    assert_eq!(read(&bus, 0x1f1, 1), [0xff]);
}

#[test]
fn items_of_one_instruction_meet_the_same_register() {
    let mut bus = Bus::default();
    let latch = || Arc::new(Mutex::new(Latch(5)));
    bus.insert(0x1f0, 8, latch()).unwrap();
    let mut data = [0; 6];
    bus.read_items(0x1f2, 2, &mut data);
    assert_eq!(data, [7; 6]);
    bus.write_items(0x1f2, 2, &[1, 2, 3, 4]);
    assert_eq!(read(&bus, 0x1f0, 1), [3], "the last item's first byte");
    bus.read_items(0x1f7, 2, &mut data);
    assert_eq!(data, [0xff; 6]);
    bus.write_items(0x1f7, 2, &[9, 9]);
    assert_eq!(read(&bus, 0x1f0, 1), [3]);
}

#[test]
fn refuses_overlaps() {
    let mut bus = Bus::default();
    let latch = || Arc::new(Mutex::new(Latch(0)));
    bus.insert(0x100, 0x10, latch()).unwrap();
    for (base, len) in [
        (0xf8, 9),
        (0x10f, 1),
        (0x100, 0x10),
        (0x80, 0x200),
        (0x200, 0),
        (u64::MAX, 2),
    ] {
        assert!(
            bus.insert(base, len, latch()).is_err(),
            "{base:#x}+{len:#x}"
        );
    }
    bus.insert(0x110, 1, latch()).unwrap();
    bus.insert(0xf8, 8, latch()).unwrap();
}
