//! A machine with one virtio-blk device, a disk and an event loop, and no hypervisor.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{Arc, Mutex},
};

use event_manager::{EventManager, SubscriberOps};
use strata_block::disk::{Disk, DiskInfo};
use strata_exec::Executor;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::disk::FakeDisk;
use crate::{
    bus::BusDevice,
    legacy::doubles::FakeLine,
    pci::{
        BarAllocator, ConfigPorts, MMIO_WINDOW_BASE, PciRoot, SharedPciDevice, Slot, Window,
        doubles::FakeHost,
    },
    virtio::{
        PciSeat,
        blk::{self, BlkWorker},
    },
};

/// Guest memory: two regions with a hole between them.
pub const LOW: u64 = 0;
pub const LOW_LEN: usize = 0x40_0000;
pub const HIGH: u64 = 0x80_0000;
pub const HIGH_LEN: usize = 0x10_0000;
pub const DISK_LEN: u64 = 0x10_0000;
const DEVICE: u8 = 4;

pub struct Bench {
    pub host: Arc<FakeHost>,
    pub line: Arc<FakeLine>,
    pub memory: Arc<GuestMemoryMmap>,
    pub disk: Rc<FakeDisk>,
    pub worker: Rc<RefCell<BlkWorker>>,
    pub function: SharedPciDevice,
    pub root: Arc<Mutex<PciRoot>>,
    pub exec: Rc<Executor>,
    events: EventManager<Rc<RefCell<BlkWorker>>>,
    ports: ConfigPorts,
    mmio: Window,
}

pub fn info() -> DiskInfo {
    DiskInfo {
        id: "virtio0".into(),
        size: DISK_LEN,
        block_size: 512,
        physical_block_size: 512,
        read_only: false,
        discard: true,
        discard_granularity: 65536,
        serial: "serial-number".into(),
    }
}

impl Bench {
    pub fn new(info: DiskInfo, queues: u16) -> Self {
        let host = Arc::new(FakeHost::default());
        let line = Arc::new(FakeLine::default());
        let regions = [(GuestAddress(LOW), LOW_LEN), (GuestAddress(HIGH), HIGH_LEN)];
        let memory = Arc::new(GuestMemoryMmap::from_ranges(&regions).unwrap());
        let mut bars = BarAllocator::default();
        let seat = PciSeat {
            hot: false,
            host: host.clone(),
            line: line.clone(),
            irq: 11,
            bars: &mut bars,
        };
        let (function, parts) = blk::create(&info, queues, memory.clone(), seat).unwrap();
        let disk = Rc::new(FakeDisk::new(info));
        let exec = Executor::new().unwrap();
        let worker = parts.into_worker(Disk::new(disk.clone()), exec.clone());
        let worker = Rc::new(RefCell::new(worker));
        let mut events = EventManager::new().unwrap();
        events.add_subscriber(worker.clone());
        let mut root = PciRoot::default();
        root.insert(Slot::new(DEVICE, 0), function.clone()).unwrap();
        let root = Arc::new(Mutex::new(root));
        Self {
            host,
            line,
            memory,
            disk,
            worker,
            function,
            exec,
            events,
            ports: ConfigPorts::new(root.clone(), Box::new(|| {})),
            mmio: Window::memory(root.clone()),
            root,
        }
    }

    /// Lets the device thread run until nothing is ready.
    pub fn run(&mut self) {
        for _ in 0..1000 {
            if self.turn() == 0 {
                return;
            }
        }
        panic!("the device thread never comes to rest");
    }

    /// One turn of the device thread's loop; how many events it met.
    pub fn turn(&mut self) -> usize {
        self.events.run_with_timeout(0).unwrap()
    }

    pub fn config_read<const N: usize>(&mut self, register: u8) -> [u8; N] {
        self.ports
            .write(0, &[register & 0xfc, DEVICE << 3, 0, 0x80]);
        let mut data = [0; N];
        self.ports.read(4 + u64::from(register & 3), &mut data);
        data
    }

    pub fn config_write(&mut self, register: u8, data: &[u8]) {
        self.ports
            .write(0, &[register & 0xfc, DEVICE << 3, 0, 0x80]);
        self.ports.write(4 + u64::from(register & 3), data);
    }

    pub fn mmio_read<const N: usize>(&mut self, address: u64) -> [u8; N] {
        let mut data = [0; N];
        self.mmio.read(address - MMIO_WINDOW_BASE, &mut data);
        data
    }

    pub fn mmio_write(&mut self, address: u64, data: &[u8]) {
        if !self.host.write(address) {
            self.mmio.write(address - MMIO_WINDOW_BASE, data);
        }
    }
}
