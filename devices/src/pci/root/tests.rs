use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::legacy::doubles::FakeLine;
use crate::pci::{
    BarAllocator, ConfigSpace, Identity, MMIO_WINDOW_BASE, NoRoom,
    bridges::{HOST_BRIDGE, ISA_BRIDGE, host_bridge, isa_bridge},
    config::BarKind,
    doubles::FakeFunction,
    intx::Pirqs,
};

struct Bench {
    root: Arc<Mutex<PciRoot>>,
    ports: ConfigPorts,
    memory: Window,
    io: Window,
    resets: Arc<AtomicUsize>,
    function: Arc<Mutex<FakeFunction>>,
}

const SLOT: Slot = Slot::new(3, 0);
const BAR0: u8 = 0x10;
const BAR2: u8 = 0x18;

fn bench() -> Bench {
    let mut config = ConfigSpace::new(Identity {
        vendor: 0x1af4,
        device: 0x1042,
        class: 0x01_00_00,
        revision: 1,
        subsystem: (0, 0),
        multi_function: false,
    });
    config.add_bar(0, BarKind::Memory64, 0x1000, 0xc000_0000);
    config.add_bar(2, BarKind::Io, 0x40, 0xc040);
    let function = Arc::new(Mutex::new(FakeFunction {
        config,
        written: None,
    }));
    let mut root = PciRoot::default();
    root.insert(HOST_BRIDGE, host_bridge(Box::new(|_, _| {})))
        .unwrap();
    root.insert(ISA_BRIDGE, isa_bridge(pirqs())).unwrap();
    root.insert(SLOT, function.clone()).unwrap();
    let root = Arc::new(Mutex::new(root));
    let resets = Arc::new(AtomicUsize::new(0));
    let count = resets.clone();
    let reset = Box::new(move || {
        count.fetch_add(1, Ordering::SeqCst);
    });
    Bench {
        ports: ConfigPorts::new(root.clone(), reset),
        memory: Window::memory(root.clone()),
        io: Window::io(root.clone()),
        root,
        resets,
        function,
    }
}

impl Bench {
    fn select(&mut self, device: u8, function: u8, register: u8) {
        let address = [register & 0xfc, device << 3 | function, 0, 0x80];
        self.ports.write(0, &address);
    }

    fn config_read<const N: usize>(&mut self, device: u8, function: u8, register: u8) -> [u8; N] {
        self.select(device, function, register);
        let mut data = [0; N];
        self.ports.read(4 + u64::from(register & 3), &mut data);
        data
    }

    fn config_write(&mut self, register: u8, data: &[u8]) {
        self.select(3, 0, register);
        self.ports.write(4 + u64::from(register & 3), data);
    }

    fn last_write(&self) -> Option<(usize, u64, Vec<u8>)> {
        self.function.lock().unwrap().written.take()
    }
}

/// PIRQs that lead to lines nobody looks at.
fn pirqs() -> Arc<Pirqs> {
    Pirqs::new(|_| Arc::new(FakeLine::default()))
}

#[test]
fn configuration_space_is_read_in_all_widths() {
    let mut bench = bench();
    assert_eq!(bench.config_read(0, 0, 0), [0x86, 0x80, 0x37, 0x12]);
    assert_eq!(bench.config_read(1, 0, 0), [0x86, 0x80, 0x00, 0x70]);
    assert_eq!(bench.config_read(1, 0, 0x0e), [0x80], "several functions");
    assert_eq!(bench.config_read(3, 0, 2), [0x42, 0x10]);
    assert_eq!(bench.config_read(3, 0, 3), [0x10]);
}

#[test]
fn nothing_answers_where_no_function_is_or_no_cycle_enabled() {
    let mut bench = bench();
    assert_eq!(bench.config_read(4, 0, 0), [0xff; 4]);
    assert_eq!(bench.config_read(3, 1, 0), [0xff; 4]);
    let mut data = [0; 4];
    bench.ports.write(0, &0x0000_0000u32.to_le_bytes());
    bench.ports.read(4, &mut data);
    assert_eq!(data, [0xff; 4], "not enabled");
    bench.ports.write(0, &0x8001_0000u32.to_le_bytes());
    bench.ports.read(4, &mut data);
    assert_eq!(data, [0xff; 4], "another bus");
}

#[test]
fn the_address_register_takes_dwords_only() {
    let mut bench = bench();
    bench.ports.write(0, &0x8000_1804u32.to_le_bytes());
    bench.ports.write(0, &[0xaa]);
    bench.ports.write(2, &[0xaa, 0xaa]);
    let mut data = [0; 4];
    bench.ports.read(0, &mut data);
    assert_eq!(u32::from_le_bytes(data), 0x8000_1804);
    let mut half = [0; 2];
    bench.ports.read(0, &mut half);
    assert_eq!(half, [0xff; 2]);
}

#[test]
fn port_cf9_resets_when_its_reset_bit_is_set() {
    let mut bench = bench();
    bench.ports.write(1, &[0x02]);
    assert_eq!(bench.resets.load(Ordering::SeqCst), 0);
    bench.ports.write(1, &[0x06]);
    assert_eq!(bench.resets.load(Ordering::SeqCst), 1);
}

#[test]
fn windows_decode_to_the_bar_at_hand() {
    let mut bench = bench();
    bench.memory.write(0x10, &[1, 2]);
    assert_eq!(bench.last_write(), Some((0, 0x10, vec![1, 2])));
    bench.io.write(0x48, &[3]);
    assert_eq!(bench.last_write(), Some((2, 8, vec![3])));
    let mut data = [0; 4];
    bench.memory.read(0xffc, &mut data);
    assert_eq!(data, [0xfc; 4]);
    bench.memory.read(0xffe, &mut data);
    assert_eq!(data, [0xff; 4], "over the BAR's end");
}

#[test]
fn a_moved_bar_answers_at_its_new_place_only() {
    let mut bench = bench();
    bench.config_write(BAR0, &0xc123_4000u32.to_le_bytes());
    bench.config_write(BAR2, &0xd000u32.to_le_bytes());
    bench.memory.write(0x10, &[1]);
    bench.io.write(0x40, &[1]);
    assert_eq!(bench.last_write(), None);
    bench.memory.write(0x0123_4010, &[1]);
    assert_eq!(bench.last_write(), Some((0, 0x10, vec![1])));
    bench.io.write(0x1004, &[1]);
    assert_eq!(bench.last_write(), Some((2, 4, vec![1])));

    bench.config_write(4, &[0, 0]);
    bench.memory.write(0x0123_4010, &[1]);
    bench.io.write(0x1004, &[1]);
    assert_eq!(bench.last_write(), None, "decoding is off");

    bench.root.lock().unwrap().reset();
    bench.memory.write(0x20, &[1]);
    assert_eq!(bench.last_write(), Some((0, 0x20, vec![1])));
}

#[test]
fn a_bar_outside_the_window_hides_the_function() {
    let mut bench = bench();
    bench.config_write(BAR0, &0x0000_1000u32.to_le_bytes());
    bench.memory.write(0, &[1]);
    assert_eq!(bench.last_write(), None);
    bench.config_write(BAR0, &0xffff_ffffu32.to_le_bytes());
    bench.memory.write(0, &[1]);
    assert_eq!(bench.last_write(), None);
}

#[test]
fn a_slot_is_taken_once() {
    let bench = bench();
    let mut root = bench.root.lock().unwrap();
    assert_eq!(root.insert(SLOT, isa_bridge(pirqs())), Err(SlotTaken(SLOT)));
}

#[test]
fn the_allocator_aligns_and_ends() {
    let mut bars = BarAllocator::default();
    assert_eq!(bars.memory(0x1000), Ok(MMIO_WINDOW_BASE));
    assert_eq!(bars.memory(0x8000), Ok(MMIO_WINDOW_BASE + 0x8000));
    let size = 1 << 30;
    assert_eq!(bars.memory(size), Err(NoRoom { size }));
    assert_eq!(bars.io(16), Ok(0xc000));
    assert_eq!(bars.io(0x2000), Ok(0xe000));
    assert_eq!(bars.io(16), Err(NoRoom { size: 16 }));
}

#[test]
fn a_function_that_was_removed_answers_no_longer() {
    let bench = bench();
    let mut root = lock(&bench.root);
    assert!(root.is_taken(SLOT));
    assert!(root.remove(SLOT).is_some());
    assert!(!root.is_taken(SLOT) && root.remove(SLOT).is_none());
    let mut vendor = [0xff; 2];
    root.read_config(SLOT, 0, &mut vendor);
    assert_eq!(vendor, [0xff; 2]);
    assert!(root.decode(Space::Memory, 0xc000_0000, 4).is_none());
    root.insert(SLOT, bench.function.clone()).unwrap();
    root.read_config(SLOT, 0, &mut vendor);
    assert_eq!(vendor, [0xf4, 0x1a]);
}
