//! A machine with one virtio-blk driver, whose device is elsewhere.

use std::{fs::File, os::fd::AsRawFd, path::Path, sync::atomic::Ordering};

use vhost::{
    VhostBackend, VhostUserMemoryRegionInfo, VringConfigData,
    vhost_user::{
        Frontend, VhostUserFrontend,
        message::{VhostUserConfigFlags, VhostUserProtocolFeatures},
    },
};
use virtio_bindings::virtio_blk::*;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

const MEMORY: usize = 1 << 20;
const ENTRIES: u16 = 64;
/// Requests of three descriptors each that the ring has room for.
const AT_ONCE: u16 = ENTRIES / 3;
/// Where queue 0's parts are; queue 1's follow at this distance.
const STRIDE: u64 = 0x1_0000;
const DESC: u64 = 0;
const AVAIL: u64 = 0x4000;
const USED: u64 = 0x8000;
/// Each request has a slot for header, status and data.
const SLOTS: u64 = 0x4_0000;
const SLOT: u64 = 1024;
const UNTOUCHED: u8 = 0xa5;

/// The machine.
pub struct Machine {
    memory: GuestMemoryMmap,
    file: File,
    front: Frontend,
    kicks: [EventFd; 2],
    calls: [EventFd; 2],
    next: [u16; 2],
}

impl Machine {
    /// Connects to the export, and starts both rings.
    pub fn start(path: &Path) -> Self {
        let file = tempfile::tempfile().unwrap();
        file.set_len(MEMORY as u64).unwrap();
        let kept = file.try_clone().unwrap();
        let memory = GuestMemoryMmap::from_ranges_with_files([(
            GuestAddress(0),
            MEMORY,
            Some(FileOffset::new(file, 0)),
        )])
        .unwrap();
        let event = || EventFd::new(0).unwrap();
        let mut machine = Self {
            front: Frontend::connect(path, 2).unwrap(),
            kicks: [event(), event()],
            calls: [event(), event()],
            next: [0; 2],
            memory,
            file: kept,
        };
        machine.negotiate();
        for queue in 0..2 {
            machine.start_ring(queue, 0);
        }
        machine
    }

    fn negotiate(&mut self) {
        self.front.set_owner().unwrap();
        let features = self.front.get_features().unwrap();
        let wanted = VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::BACKEND_REQ
            | VhostUserProtocolFeatures::REPLY_ACK;
        let offered = self.front.get_protocol_features().unwrap();
        assert!(offered.contains(wanted));
        self.front.set_protocol_features(wanted).unwrap();
        // Without event indexes: every request is answered with a call.
        let event_idx = 1 << virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
        self.front.set_features(features & !event_idx).unwrap();
        let region = self.memory.iter().next().unwrap();
        let region = VhostUserMemoryRegionInfo::from_guest_region(region).unwrap();
        self.front.set_mem_table(&[region]).unwrap();
    }

    /// Gives the device a channel to say things on.
    pub fn give_channel(&mut self, channel: &impl AsRawFd) {
        self.front.set_backend_request_fd(channel).unwrap();
        // Once there is an answer to another message, this one has arrived.
        self.capacity();
    }

    /// Starts a ring at this position.
    pub fn start_ring(&mut self, queue: usize, base: u16) {
        let region = self.memory.iter().next().unwrap();
        let at = region.as_ptr() as u64 + queue as u64 * STRIDE;
        self.front.set_vring_num(queue, ENTRIES).unwrap();
        let config = VringConfigData {
            queue_max_size: ENTRIES,
            queue_size: ENTRIES,
            flags: 0,
            desc_table_addr: at + DESC,
            used_ring_addr: at + USED,
            avail_ring_addr: at + AVAIL,
            log_addr: None,
        };
        self.front.set_vring_addr(queue, &config).unwrap();
        self.front.set_vring_base(queue, base).unwrap();
        self.front
            .set_vring_call(queue, &self.calls[queue])
            .unwrap();
        self.front
            .set_vring_kick(queue, &self.kicks[queue])
            .unwrap();
        self.front.set_vring_enable(queue, true).unwrap();
    }

    /// Takes all of the memory away, kicks, and waits until the device has had enough.
    pub fn take_memory_away(self) {
        self.file.set_len(0).unwrap();
        self.kicks[0].write(1).unwrap();
        // Asks until there is no answer.
        while self.front.get_features().is_ok() {
            std::thread::yield_now();
        }
    }

    /// Stops a ring; where it stopped.
    pub fn stop_ring(&mut self, queue: usize) -> u32 {
        self.front.get_vring_base(queue).unwrap()
    }

    /// Sectors of the disk, as the device's configuration says.
    pub fn capacity(&mut self) -> u64 {
        let flags = VhostUserConfigFlags::empty();
        let answer = self.front.get_config(0, 8, flags, &[0; 8]).unwrap();
        u64::from_le_bytes(answer.1.try_into().unwrap())
    }

    fn at(queue: usize, offset: u64) -> GuestAddress {
        GuestAddress(queue as u64 * STRIDE + offset)
    }

    /// Where request `number` has its bytes.
    fn slot(queue: usize, number: u16) -> u64 {
        SLOTS + (queue as u64 * u64::from(AT_ONCE) + u64::from(number % AT_ONCE)) * SLOT
    }

    /// Puts a request into a ring and kicks. `data` is written, or there is room for a sector.
    fn send(&mut self, queue: usize, kind: u32, sector: u64, data: Option<&[u8]>) -> u16 {
        let number = self.next[queue];
        let slot = Self::slot(queue, number);
        let mut header = [0; 16];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        self.memory
            .write_slice(&header, GuestAddress(slot))
            .unwrap();
        self.memory
            .write_obj(UNTOUCHED, GuestAddress(slot + 16))
            .unwrap();
        if let Some(data) = data {
            self.memory
                .write_slice(data, GuestAddress(slot + 512))
                .unwrap();
        }
        let device_writes = if data.is_some() { 0 } else { 2 };
        let head = number % AT_ONCE * 3;
        for (n, (address, len, flags)) in (0u16..).zip([
            (slot, 16u32, 1u16),
            (slot + 512, 512, 1 | device_writes),
            (slot + 16, 1, 2),
        ]) {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&address.to_le_bytes());
            bytes[8..12].copy_from_slice(&len.to_le_bytes());
            bytes[12..14].copy_from_slice(&flags.to_le_bytes());
            bytes[14..].copy_from_slice(&(head + n + 1).to_le_bytes());
            let at = Self::at(queue, DESC + u64::from(head + n) * 16);
            self.memory.write_slice(&bytes, at).unwrap();
        }
        let entry = AVAIL + 4 + u64::from(number % ENTRIES) * 2;
        self.memory.write_obj(head, Self::at(queue, entry)).unwrap();
        self.next[queue] = number + 1;
        let index = Self::at(queue, AVAIL + 2);
        self.memory
            .store(number + 1, index, Ordering::Release)
            .unwrap();
        self.kicks[queue].write(1).unwrap();
        number
    }

    /// Waits for the answer to the last request, and returns its status byte.
    fn finish(&mut self, queue: usize, number: u16) -> u8 {
        while self.used(queue) < self.next[queue] {
            self.calls[queue].read().unwrap();
        }
        let status = GuestAddress(Self::slot(queue, number) + 16);
        self.memory.read_obj(status).unwrap()
    }

    /// How many requests have been answered.
    pub fn used(&self, queue: usize) -> u16 {
        let index = Self::at(queue, USED + 2);
        self.memory.load(index, Ordering::Acquire).unwrap()
    }

    /// Asks for a sector, and does not wait.
    pub fn send_read(&mut self, queue: usize, sector: u64) {
        self.send(queue, VIRTIO_BLK_T_IN, sector, None);
    }

    /// Reads a sector.
    pub fn read(&mut self, queue: usize, sector: u64) -> Vec<u8> {
        let number = self.send(queue, VIRTIO_BLK_T_IN, sector, None);
        assert_eq!(self.finish(queue, number), 0);
        let mut data = vec![0; 512];
        let slot = Self::slot(queue, number);
        self.memory
            .read_slice(&mut data, GuestAddress(slot + 512))
            .unwrap();
        data
    }

    /// Writes a sector; the status.
    pub fn try_write(&mut self, queue: usize, sector: u64, data: &[u8]) -> u8 {
        let number = self.send(queue, VIRTIO_BLK_T_OUT, sector, Some(data));
        self.finish(queue, number)
    }

    /// Writes a sector.
    pub fn write(&mut self, queue: usize, sector: u64, data: &[u8]) {
        assert_eq!(self.try_write(queue, sector, data), 0);
    }
}
