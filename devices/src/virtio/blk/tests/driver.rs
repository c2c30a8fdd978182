//! A small virtio-blk driver.

use std::ops::{Deref, DerefMut};

use strata_block::disk::DiskInfo;
use virtio_bindings::{virtio_blk::*, virtio_config::VIRTIO_F_VERSION_1, virtio_ring::*};
use vm_memory::{Bytes, GuestAddress};

use super::bench::Bench;

pub const WRITE: u16 = VRING_DESC_F_WRITE as u16;
pub const NEXT: u16 = VRING_DESC_F_NEXT as u16;
pub const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;

/// Where queue 0's parts are; other queues follow at this distance.
pub const DESC: u64 = 0x1_0000;
pub const AVAIL: u64 = 0x1_2000;
pub const USED: u64 = 0x1_4000;
pub const QUEUE_STRIDE: u64 = 0x1_0000;
/// Where headers, status bytes and data may go.
pub const HEADER: u64 = 0x20_0000;
pub const STATUS: u64 = 0x20_8000;
pub const DATA: u64 = 0x21_0000;
pub const TABLE: u64 = 0x30_0000;
pub const SIZE: u16 = 256;

/// The status byte before the device has written it.
pub const UNTOUCHED: u8 = 0xa5;

/// One descriptor.
#[derive(Debug, Clone, Copy)]
pub struct Desc(pub u64, pub u32, pub u16, pub u16);

impl Desc {
    fn bytes(self) -> Vec<u8> {
        let mut bytes = self.0.to_le_bytes().to_vec();
        bytes.extend(self.1.to_le_bytes());
        bytes.extend(self.2.to_le_bytes());
        bytes.extend(self.3.to_le_bytes());
        bytes
    }
}

/// The driver and the machine that it runs on.
pub struct Driver {
    bench: Bench,
    /// The device's BAR.
    pub bar: u64,
    avail: Vec<u16>,
    used: Vec<u16>,
}

impl Deref for Driver {
    type Target = Bench;
    fn deref(&self) -> &Bench {
        &self.bench
    }
}

impl DerefMut for Driver {
    fn deref_mut(&mut self) -> &mut Bench {
        &mut self.bench
    }
}

pub const ALL: u64 = u64::MAX;
pub const COMMON: u64 = 0;
pub const NOTIFY: u64 = 0x3000;
pub const MSIX: u64 = 0x4000;

impl Driver {
    /// A driver with every feature, over MSI-X.
    pub fn new() -> Self {
        Self::with(super::bench::info(), 1, ALL)
    }

    /// A driver that accepts `wanted` of what is offered.
    pub fn with(info: DiskInfo, queues: u16, wanted: u64) -> Self {
        let mut driver = Self::unready(info, queues);
        driver.enable_msix();
        driver.start(wanted);
        driver
    }

    /// A driver that has found its device and turned bus mastering on.
    pub fn unready(info: DiskInfo, queues: u16) -> Self {
        let mut bench = Bench::new(info, queues);
        let low = u32::from_le_bytes(bench.config_read(0x10)) & !0xf;
        let high = u32::from_le_bytes(bench.config_read(0x14));
        bench.config_write(4, &[0x06, 0]);
        Self {
            bench,
            bar: u64::from(high) << 32 | u64::from(low),
            avail: vec![0; usize::from(queues)],
            used: vec![0; usize::from(queues)],
        }
    }

    /// Enables MSI-X with vector data 0x30 and up.
    pub fn enable_msix(&mut self) {
        let queues = self.avail.len() as u64;
        self.config_write(0x42, &0x8000u16.to_le_bytes());
        for vector in 0..=queues {
            let at = self.bar + MSIX + vector * 16;
            self.mmio_write(at, &0xfee0_0000u64.to_le_bytes());
            self.mmio_write(at + 8, &(0x30 + vector as u32).to_le_bytes());
            self.mmio_write(at + 12, &[0; 4]);
        }
    }

    pub fn bar_read<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        let at = self.bar + offset;
        self.mmio_read(at)
    }

    pub fn common_read<const N: usize>(&mut self, offset: u64) -> [u8; N] {
        self.bar_read(COMMON + offset)
    }

    pub fn common_write(&mut self, offset: u64, data: &[u8]) {
        let at = self.bar + COMMON + offset;
        self.mmio_write(at, data);
    }

    pub fn status(&mut self) -> u8 {
        self.common_read::<1>(20)[0]
    }

    pub fn offered(&mut self) -> u64 {
        let mut features = 0;
        for word in [0u32, 1] {
            self.common_write(0, &word.to_le_bytes());
            let bits = u32::from_le_bytes(self.common_read(4));
            features |= u64::from(bits) << (32 * word);
        }
        features
    }

    pub fn accept(&mut self, features: u64) {
        for word in [0u32, 1] {
            self.common_write(8, &word.to_le_bytes());
            self.common_write(12, &((features >> (32 * word)) as u32).to_le_bytes());
        }
    }

    /// Takes the device from reset to DRIVER_OK (3.1.1) with `wanted` of what it offers.
    pub fn start(&mut self, wanted: u64) {
        self.common_write(20, &[1]);
        self.common_write(20, &[3]);
        let features = self.offered() & (wanted | 1 << VIRTIO_F_VERSION_1);
        self.accept(features);
        self.common_write(20, &[0xb]);
        assert_eq!(self.status(), 0xb, "FEATURES_OK");
        let queues = self.avail.len() as u16;
        self.common_write(16, &queues.to_le_bytes());
        for queue in 0..queues {
            self.set_up_queue(queue);
        }
        self.common_write(20, &[0xf]);
        self.run();
    }

    pub fn set_up_queue(&mut self, queue: u16) {
        let shift = u64::from(queue) * QUEUE_STRIDE;
        self.common_write(22, &queue.to_le_bytes());
        self.common_write(24, &SIZE.to_le_bytes());
        self.common_write(26, &queue.to_le_bytes());
        self.common_write(32, &((DESC + shift) as u32).to_le_bytes());
        self.common_write(36, &[0; 4]);
        self.common_write(40, &(AVAIL + shift).to_le_bytes());
        self.common_write(48, &(USED + shift).to_le_bytes());
        self.common_write(28, &1u16.to_le_bytes());
        self.avail[usize::from(queue)] = 0;
        self.used[usize::from(queue)] = 0;
        for area in [AVAIL, USED] {
            self.put(area + shift, &[0; 0x1000]);
        }
    }

    pub fn put(&self, address: u64, bytes: &[u8]) {
        self.memory
            .write_slice(bytes, GuestAddress(address))
            .unwrap();
    }

    pub fn get<const N: usize>(&self, address: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    /// Writes descriptors into queue 0's table from `first` on.
    pub fn describe(&self, first: u16, descriptors: &[Desc]) {
        self.describe_at(DESC + u64::from(first) * 16, descriptors);
    }

    pub fn describe_at(&self, table: u64, descriptors: &[Desc]) {
        let bytes: Vec<u8> = descriptors.iter().flat_map(|desc| desc.bytes()).collect();
        self.put(table, &bytes);
    }

    /// Writes a chain of (address, length, flags) pieces into queue 0's table from `first` on.
    pub fn chain(&self, first: u16, pieces: &[(u64, u32, u16)]) {
        let last = pieces.len() - 1;
        let link = |(i, &(address, len, flags)): (usize, &(u64, u32, u16))| {
            let next = if i == last { 0 } else { NEXT };
            Desc(address, len, flags | next, first + i as u16 + 1)
        };
        let descriptors: Vec<Desc> = pieces.iter().enumerate().map(link).collect();
        self.describe(first, &descriptors);
    }

    /// Offers the chain at `head` of `queue`, without a kick.
    pub fn offer_on(&mut self, queue: u16, head: u16) {
        let shift = u64::from(queue) * QUEUE_STRIDE;
        let index = &mut self.avail[usize::from(queue)];
        let slot = AVAIL + shift + 4 + 2 * u64::from(*index % SIZE);
        *index = index.wrapping_add(1);
        let index = *index;
        self.put(slot, &head.to_le_bytes());
        self.put(AVAIL + shift + 2, &index.to_le_bytes());
    }

    pub fn offer(&mut self, head: u16) {
        self.offer_on(0, head);
    }

    pub fn kick(&mut self, queue: u16) {
        let at = self.bar + NOTIFY + 4 * u64::from(queue);
        self.mmio_write(at, &queue.to_le_bytes());
        self.run();
    }

    /// What `queue`'s used ring has gained: heads and lengths.
    pub fn take_used_on(&mut self, queue: u16) -> Vec<(u32, u32)> {
        let ring = USED + u64::from(queue) * QUEUE_STRIDE;
        let end = u16::from_le_bytes(self.get(ring + 2));
        let mut used = Vec::new();
        while self.used[usize::from(queue)] != end {
            let index = &mut self.used[usize::from(queue)];
            let slot = ring + 4 + 8 * u64::from(*index % SIZE);
            *index = index.wrapping_add(1);
            let head = u32::from_le_bytes(self.get(slot));
            used.push((head, u32::from_le_bytes(self.get(slot + 4))));
        }
        used
    }

    pub fn take_used(&mut self) -> Vec<(u32, u32)> {
        self.take_used_on(0)
    }

    /// Puts a request header at [`HEADER`] and [`UNTOUCHED`] at [`STATUS`].
    pub fn header(&self, kind: u32, sector: u64) {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        self.put(HEADER, &header);
        self.put(STATUS, &[UNTOUCHED]);
    }

    /// Runs one request whose chain consists of header, `data` pieces and status byte; returns the
    /// status byte and the length in the used ring.
    pub fn request(&mut self, kind: u32, sector: u64, data: &[(u64, u32, u16)]) -> (u8, u32) {
        let mut pieces = vec![(HEADER, 16, 0)];
        pieces.extend(data);
        pieces.push((STATUS, 1, WRITE));
        self.header(kind, sector);
        self.chain(0, &pieces);
        self.run_chain()
    }

    /// Offers the chain at descriptor 0, kicks, and takes the answer.
    pub fn run_chain(&mut self) -> (u8, u32) {
        self.offer(0);
        self.kick(0);
        let used = self.take_used();
        assert_eq!(used.len(), 1, "one answer, status {:#x}", self.status());
        assert_eq!(used[0].0, 0);
        (self.get::<1>(STATUS)[0], used[0].1)
    }

    pub fn read_sectors(&mut self, sector: u64, len: u32) -> (u8, u32) {
        self.request(VIRTIO_BLK_T_IN, sector, &[(DATA, len, WRITE)])
    }

    pub fn write_sectors(&mut self, sector: u64, len: u32) -> (u8, u32) {
        self.request(VIRTIO_BLK_T_OUT, sector, &[(DATA, len, 0)])
    }
}
