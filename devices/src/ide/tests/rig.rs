//! The driver, the disk's double, and what ties them together.

use std::{cell::RefCell, collections::VecDeque, rc::Rc, sync::Arc};

use event_manager::{EventManager, SubscriberOps};
use strata_block::disk::{Disk, DiskInfo, Done, Op, Request, Submit};
use strata_storage::error::IoError;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::{
    bus::Bus,
    ide::{DriveOptions, IdeController, IdeWorker, Media},
    legacy::doubles::FakeLine,
    pci::SharedPciDevice,
};

pub const SECTORS: u64 = 4096;
pub const MEMORY: u64 = 4 << 20;
/// Where the driver keeps its descriptor table.
pub const TABLE: u32 = 0x1000;
const BUS_MASTER: u64 = 0xc000;

pub const BUSY: u8 = 0x80;
pub const READY: u8 = 0x50;
pub const DATA_REQUEST: u8 = 0x08;
pub const ERROR: u8 = 0x01;
pub const ABORTED: u8 = 0x04;
pub const NOT_FOUND: u8 = 0x10;
pub const UNCORRECTABLE: u8 = 0x40;

/// A disk in memory that remembers what it was asked, and can hold requests back or fail them.
pub struct FakeDisk {
    pub bytes: RefCell<Vec<u8>>,
    pub log: RefCell<Vec<(Op, u64, u64)>>,
    pub fail: RefCell<Option<IoError>>,
    pub hold: RefCell<bool>,
    held: RefCell<VecDeque<(Request, Done)>>,
    info: RefCell<DiskInfo>,
}

impl FakeDisk {
    fn new(info: DiskInfo) -> Rc<Self> {
        let pattern = |i: u64| (i / 512 * 7 + i % 251) as u8;
        Rc::new(Self {
            bytes: RefCell::new((0..info.size).map(pattern).collect()),
            log: RefCell::default(),
            fail: RefCell::default(),
            hold: RefCell::default(),
            held: RefCell::default(),
            info: RefCell::new(info),
        })
    }

    fn carry_out(&self, request: &Request) -> Result<(), IoError> {
        if let Some(error) = self.fail.borrow().clone() {
            return Err(error);
        }
        let mut bytes = self.bytes.borrow_mut();
        let range = request.offset as usize..(request.offset + request.len) as usize;
        match request.op {
            Op::Read => request.data.copy_from(0, &bytes[range]),
            Op::Write { .. } => request.data.copy_to(0, &mut bytes[range]),
            Op::Discard | Op::WriteZeroes { .. } => bytes[range].fill(0),
            Op::Flush => {}
        }
        Ok(())
    }

    /// Lets go of what has been held back.
    pub fn release(&self) {
        *self.hold.borrow_mut() = false;
        while let Some((request, done)) = { self.held.borrow_mut().pop_front() } {
            let result = self.carry_out(&request);
            done(result);
        }
    }

    /// Gives it another number of sectors.
    pub fn resize(&self, sectors: u64) {
        self.info.borrow_mut().size = sectors * 512;
        self.bytes.borrow_mut().resize(sectors as usize * 512, 0);
    }

    pub fn sectors(&self, first: u64, count: u64) -> Vec<u8> {
        self.bytes.borrow()[first as usize * 512..(first + count) as usize * 512].to_vec()
    }

    pub fn ops(&self) -> Vec<Op> {
        self.log.borrow().iter().map(|entry| entry.0).collect()
    }
}

impl Submit for FakeDisk {
    fn submit(&self, request: Request, done: Done) {
        let entry = (request.op, request.offset, request.len);
        self.log.borrow_mut().push(entry);
        if *self.hold.borrow() {
            self.held.borrow_mut().push_back((request, done));
        } else {
            let result = self.carry_out(&request);
            done(result);
        }
    }

    fn info(&self) -> Rc<DiskInfo> {
        Rc::new(self.info.borrow().clone())
    }
}

pub fn info() -> DiskInfo {
    DiskInfo {
        id: "ide0-hd0".into(),
        size: SECTORS * 512,
        block_size: 512,
        physical_block_size: 512,
        read_only: false,
        discard: true,
        discard_granularity: 512,
        serial: "SERIAL-1".into(),
    }
}

/// A controller with one disk, primary master unless said otherwise.
pub struct Rig {
    pub ports: Bus,
    pub function: SharedPciDevice,
    pub disk: Rc<FakeDisk>,
    pub line: Arc<FakeLine>,
    pub memory: Arc<GuestMemoryMmap>,
    pub worker: Rc<RefCell<IdeWorker>>,
    manager: EventManager<Rc<RefCell<IdeWorker>>>,
    command: u64,
    control: u64,
    engine: u64,
}

impl Rig {
    pub fn new() -> Self {
        Self::with(0, info())
    }

    /// Two drives on the primary channel, with one disk behind both.
    pub fn pair() -> Self {
        Self::build(&[0, 1], info())
    }

    /// A disk in the given place: 0 and 1 on the primary channel, 2 and 3 on the secondary.
    pub fn with(place: usize, info: DiskInfo) -> Self {
        Self::build(&[place], info)
    }

    /// A CD drive as primary master, with a disc of so many sectors of 512 bytes.
    pub fn cdrom(sectors: u64) -> Self {
        let disc = DiskInfo {
            size: sectors * 512,
            read_only: true,
            ..info()
        };
        let cdrom = DriveOptions {
            media: Media::Cdrom,
            ..DriveOptions::default()
        };
        Self::attached(&[(0, cdrom)], disc)
    }

    /// The disk in all of `places`, which are on one channel.
    fn build(places: &[usize], info: DiskInfo) -> Self {
        let disks: Vec<_> = places
            .iter()
            .map(|&place| (place, DriveOptions::default()))
            .collect();
        Self::attached(&disks, info)
    }

    /// The same with drives of any kind.
    pub fn attached(places: &[(usize, DriveOptions)], info: DiskInfo) -> Self {
        let disk = FakeDisk::new(info.clone());
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
        let memory = Arc::new(memory);
        let lines = [Arc::new(FakeLine::default()), Arc::new(FakeLine::default())];
        let (mut infos, mut disks) = ([None; 4], [const { None }; 4]);
        for &(place, options) in places {
            infos[place] = Some((&info, options));
            disks[place] = Some(Disk::new(disk.clone()));
        }
        let (controller, parts) = IdeController::new(
            infos,
            memory.clone(),
            [lines[0].clone(), lines[1].clone()],
            BUS_MASTER as u16,
        )
        .unwrap();
        let worker = Rc::new(RefCell::new(parts.into_worker(disks)));
        let mut manager = EventManager::new().unwrap();
        manager.add_subscriber(worker.clone());
        let mut ports = Bus::default();
        controller.insert_ports(&mut ports).unwrap();
        let channel = places[0].0 / 2;
        let rig = Self {
            ports,
            function: controller.function(),
            disk,
            line: lines[channel].clone(),
            memory,
            worker,
            manager,
            command: [0x1f0, 0x170][channel],
            control: [0x3f6, 0x376][channel],
            engine: 8 * channel as u64,
        };
        rig.enable_bus_master();
        rig
    }

    pub fn enable_bus_master(&self) {
        self.function.lock().unwrap().write_config(4, &[0x05, 0]);
    }

    /// Lets the device thread do all that it can.
    pub fn run(&mut self) {
        for _ in 0..10_000 {
            if self.manager.run_with_timeout(0).unwrap() == 0 {
                return;
            }
        }
        panic!("the worker never rests");
    }

    pub fn get(&self, register: u64) -> u8 {
        let mut value = [0];
        self.ports.read(self.command + register, &mut value);
        value[0]
    }

    pub fn set(&self, register: u64, value: u8) {
        self.ports.write(self.command + register, &[value]);
    }

    /// The status, without acknowledging the interrupt.
    pub fn status(&self) -> u8 {
        let mut value = [0];
        self.ports.read(self.control, &mut value);
        value[0]
    }

    pub fn set_control(&self, value: u8) {
        self.ports.write(self.control, &[value]);
    }

    /// Addresses by 28-bit LBA, drive 0.
    pub fn address28(&self, lba: u32, count: u8) {
        let [a, b, c, d] = lba.to_le_bytes();
        for (register, value) in [(2, count), (3, a), (4, b), (5, c), (6, 0xe0 | d)] {
            self.set(register, value);
        }
    }

    /// Addresses by 48-bit LBA, drive 0.
    pub fn address48(&self, lba: u64, count: u16) {
        let [a, b, c, d, e, f, ..] = lba.to_le_bytes();
        let [low, high] = count.to_le_bytes();
        self.set(6, 0xe0);
        for (register, value) in [(2, high), (3, d), (4, e), (5, f)] {
            self.set(register, value);
        }
        for (register, value) in [(2, low), (3, a), (4, b), (5, c)] {
            self.set(register, value);
        }
    }

    pub fn lba28(&self) -> u32 {
        u32::from_le_bytes([self.get(3), self.get(4), self.get(5), self.get(6) & 0xf])
    }

    pub fn lba48(&self) -> u64 {
        let low = [self.get(3), self.get(4), self.get(5)];
        self.set_control(0x80);
        let high = [self.get(3), self.get(4), self.get(5)];
        self.set_control(0);
        u64::from_le_bytes([low[0], low[1], low[2], high[0], high[1], high[2], 0, 0])
    }

    /// Writes a command and lets the device thread run.
    pub fn command(&mut self, code: u8) {
        self.set(7, code);
        self.run();
    }

    /// Acknowledges an interrupt that must be there; the status.
    pub fn acknowledge(&self) -> u8 {
        assert!(
            self.line.is_high(),
            "no interrupt, status {:#x}",
            self.status()
        );
        let status = self.get(7);
        assert!(!self.line.is_high());
        status
    }

    pub fn succeeded(&self) {
        assert_eq!(self.acknowledge(), READY, "error {:#x}", self.get(1));
    }

    pub fn failed(&self, error: u8) {
        assert_eq!(self.acknowledge(), READY | ERROR);
        assert_eq!(self.get(1), error);
    }

    /// Moves a block that the drive offers, by accesses of `width` bytes.
    pub fn read_block(&self, sectors: usize, width: usize) -> Vec<u8> {
        assert_eq!(self.acknowledge(), READY | DATA_REQUEST);
        let mut block = vec![0; sectors * 512];
        for piece in block.chunks_mut(width) {
            self.ports.read(self.command, piece);
        }
        block
    }

    pub fn write_block(&mut self, block: &[u8], width: usize) {
        assert_eq!(self.status(), READY | DATA_REQUEST);
        for piece in block.chunks(width) {
            self.ports.write(self.command, piece);
        }
        self.run();
    }

    pub fn engine(&self, offset: u64) -> u8 {
        let mut value = [0xff];
        let mut function = self.function.lock().unwrap();
        function.read_bar(4, self.engine + offset, &mut value);
        value[0]
    }

    pub fn set_engine(&self, offset: u64, data: &[u8]) {
        let mut function = self.function.lock().unwrap();
        function.write_bar(4, self.engine + offset, data);
    }

    /// Writes a descriptor table (address, count as stored); the last entry ends it.
    pub fn table(&self, entries: &[(u32, u16)]) {
        for (i, &(address, count)) in entries.iter().enumerate() {
            let end = if i + 1 == entries.len() { 1 << 31 } else { 0 };
            self.descriptor(i as u32, address, u32::from(count) | end);
        }
        self.set_engine(4, &TABLE.to_le_bytes());
    }

    pub fn descriptor(&self, index: u32, address: u32, flags: u32) {
        let entry = u64::from(flags) << 32 | u64::from(address);
        let at = GuestAddress(u64::from(TABLE) + 8 * u64::from(index));
        self.memory.write_obj(entry.to_le(), at).unwrap();
    }

    /// Writes PACKET and the command behind it, as `libata` does: features, the limit for a block
    /// of data, and 12 bytes by accesses of `width`.
    pub fn packet(&mut self, features: u8, limit: u16, packet: &[u8], width: usize) {
        self.start_packet(features, limit, packet, width);
        self.run();
    }

    /// The same, and the device thread is busy elsewhere.
    pub fn start_packet(&self, features: u8, limit: u16, packet: &[u8], width: usize) {
        let [low, high] = limit.to_le_bytes();
        for (register, value) in [(6, 0xa0), (1, features), (4, low), (5, high)] {
            self.set(register, value);
        }
        self.set(7, 0xa0);
        assert_eq!(self.status(), READY | DATA_REQUEST);
        assert_eq!(self.get(2), 1, "the reason: a command is wanted");
        let mut command = [0; 12];
        command[..packet.len()].copy_from_slice(packet);
        for piece in command.chunks(width) {
            self.ports.write(self.command, piece);
        }
    }

    /// A packet command whose reply comes through the data port: the sizes of its blocks, and the
    /// reply. It must succeed.
    pub fn packet_in(&mut self, limit: u16, packet: &[u8]) -> (Vec<usize>, Vec<u8>) {
        self.packet(0, limit, packet, 2);
        let (mut sizes, mut reply) = (Vec::new(), Vec::new());
        while self.status() & DATA_REQUEST != 0 {
            assert_eq!(self.acknowledge(), READY | DATA_REQUEST);
            assert_eq!(self.get(2), 2, "the reason: data for the host");
            let len = usize::from(self.get(4)) | usize::from(self.get(5)) << 8;
            let mut block = vec![0; len.next_multiple_of(2)];
            for word in block.chunks_mut(2) {
                self.ports.read(self.command, word);
            }
            sizes.push(len);
            reply.extend(&block[..len]);
            self.run();
        }
        self.packet_succeeded();
        (sizes, reply)
    }

    pub fn packet_succeeded(&self) {
        self.succeeded();
        assert_eq!(self.get(2), 3, "the reason: it has ended");
    }

    /// The command has failed with this sense key; the whole sense is fetched.
    pub fn packet_failed(&mut self, key: u8) -> [u8; 3] {
        self.failed(key << 4);
        assert_eq!(self.get(2), 3);
        let (_, sense) = self.packet_in(64, &[0x03, 0, 0, 0, 18]);
        assert_eq!(sense[2], key);
        [sense[2], sense[12], sense[13]]
    }

    /// As `ata_piix` does it: the table, then the command, then start; up to the interrupt.
    pub fn dma(&mut self, command: u8) {
        self.set_engine(2, &[self.engine(2) | 0x06]);
        self.set_engine(0, &[0x08]);
        self.set(7, command);
        self.set_engine(0, &[0x09]);
        self.run();
    }

    pub fn stop_engine(&self) {
        self.set_engine(0, &[0x08]);
    }

    pub fn fill(&self, address: u64, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .unwrap();
    }

    pub fn peek(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    pub fn identify(&mut self) -> Vec<u16> {
        self.command(0xec);
        let data = self.read_block(1, 2);
        data.chunks(2)
            .map(|w| u16::from_le_bytes([w[0], w[1]]))
            .collect()
    }
}

/// Bytes that differ everywhere.
pub fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i * 13 + i / 512) as u8 ^ seed).collect()
}
