//! The front half: features, device configuration, and messages to the worker.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use strata_block::disk::DiskInfo;
use strata_exec::inbox::Sender;
use virtio_bindings::{virtio_blk::*, virtio_ids::VIRTIO_ID_BLOCK};
use virtio_queue::QueueState;

use super::layout;
use crate::virtio::{VirtioDevice, ring::RING_FEATURES};

/// What the front half sends to the worker.
#[derive(Debug)]
pub enum Message {
    /// Serve these queues.
    Activate {
        /// Negotiated features.
        features: u64,
        /// As the driver has laid them out.
        queues: Vec<Option<QueueState>>,
    },
    /// Drain, then say that the reset is done.
    Reset,
}

/// What either half may change and the other reads.
pub struct Shared {
    /// The disk's size.
    pub sectors: AtomicU64,
    /// Writes may complete before they are durable.
    pub writeback: AtomicBool,
    /// The driver knows how long a segment may be.
    pub knows_size_max: AtomicBool,
}

impl Shared {
    /// For the disk that `info` describes.
    pub fn new(info: &DiskInfo) -> Self {
        Self {
            sectors: AtomicU64::new(info.size / layout::SECTOR),
            writeback: AtomicBool::new(true),
            knows_size_max: AtomicBool::new(false),
        }
    }

    /// The driver has accepted `features`: one that cannot flush needs every write to be durable.
    pub fn negotiated(&self, features: u64) {
        let knows = has(features, VIRTIO_BLK_F_SIZE_MAX);
        self.knows_size_max.store(knows, Ordering::Release);
        if !has(features, VIRTIO_BLK_F_FLUSH) {
            self.writeback.store(false, Ordering::Release);
        }
    }

    /// As after power-on.
    pub fn reset(&self) {
        self.writeback.store(true, Ordering::Release);
        self.knows_size_max.store(false, Ordering::Release);
    }

    /// The driver reads device configuration at `offset`; what lies behind its end stays as it is.
    pub fn read_config(&self, info: &DiskInfo, queues: u16, offset: u64, data: &mut [u8]) {
        let sectors = self.sectors.load(Ordering::Acquire);
        let writeback = self.writeback.load(Ordering::Acquire);
        let image = layout::image(info, sectors, queues, writeback);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (byte, value) in data.iter_mut().zip(image.iter().skip(start)) {
            *byte = *value;
        }
    }

    /// The driver, which has accepted `features`, writes device configuration. The one field that
    /// it may write is `writeback`, and without FLUSH that stays 0 (5.2.5.2).
    pub fn write_config(&self, features: u64, offset: u64, data: &[u8]) {
        let allowed = has(features, VIRTIO_BLK_F_CONFIG_WCE) && has(features, VIRTIO_BLK_F_FLUSH);
        if let &[value] = data
            && offset == layout::WRITEBACK as u64
            && allowed
        {
            self.writeback.store(value & 1 != 0, Ordering::Release);
        }
    }
}

/// The features that a device with `queues` queues offers for a disk.
pub fn offered(info: &DiskInfo, queues: u16) -> u64 {
    let when = |condition: bool, bit: u32| u64::from(condition) << bit;
    RING_FEATURES
        | 1 << VIRTIO_BLK_F_SIZE_MAX
        | 1 << VIRTIO_BLK_F_SEG_MAX
        | 1 << VIRTIO_BLK_F_BLK_SIZE
        | 1 << VIRTIO_BLK_F_FLUSH
        | 1 << VIRTIO_BLK_F_TOPOLOGY
        | 1 << VIRTIO_BLK_F_CONFIG_WCE
        | when(info.read_only, VIRTIO_BLK_F_RO)
        | when(queues > 1, VIRTIO_BLK_F_MQ)
        | when(info.discard && !info.read_only, VIRTIO_BLK_F_DISCARD)
        | when(!info.read_only, VIRTIO_BLK_F_WRITE_ZEROES)
}

/// virtio-blk's [`VirtioDevice`].
pub struct BlkFront {
    info: DiskInfo,
    queues: u16,
    shared: Arc<Shared>,
    sender: Sender<Message>,
}

impl BlkFront {
    /// A front half that sends to the worker behind `sender`.
    pub fn new(info: &DiskInfo, queues: u16, sender: Sender<Message>) -> Self {
        Self {
            info: info.clone(),
            queues,
            shared: Arc::new(Shared::new(info)),
            sender,
        }
    }

    /// What the worker shares.
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }
}

/// Whether `features` has feature bit `bit`.
pub fn has(features: u64, bit: u32) -> bool {
    features & 1 << bit != 0
}

impl VirtioDevice for BlkFront {
    fn device_type(&self) -> u16 {
        u16::try_from(VIRTIO_ID_BLOCK).expect("device types have 16 bits")
    }

    fn class_code(&self) -> u32 {
        // Mass storage, SCSI: what guests know virtio-blk as.
        0x01_00_00
    }

    fn features(&self) -> u64 {
        offered(&self.info, self.queues)
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![super::QUEUE_SIZE; usize::from(self.queues)]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.shared
            .read_config(&self.info, self.queues, offset, data);
    }

    fn write_config(&mut self, features: u64, offset: u64, data: &[u8]) {
        self.shared.write_config(features, offset, data);
    }

    fn activate(&mut self, features: u64, queues: Vec<Option<QueueState>>) {
        self.shared.negotiated(features);
        self.sender.send(Message::Activate { features, queues });
    }

    fn reset(&mut self) {
        self.shared.reset();
        self.sender.send(Message::Reset);
    }

    fn wake(&mut self) {
        self.sender.waker().wake();
    }
}
