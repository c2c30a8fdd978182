//! The common configuration structure: `virtio_pci_common_cfg` (virtio 1.2, 4.1.4.3).

use strata_exec::mem::to_usize;
use virtio_queue::QueueState;

use super::state::{DeviceState, Status};

/// Bytes of the structure.
pub const COMMON_LEN: u64 = 60;

/// The registers of one queue, as the driver has set them up.
#[derive(Debug, Clone, Default)]
struct QueueRegisters {
    max_size: u16,
    size: u16,
    enabled: bool,
    /// Guest addresses of descriptor table, available ring and used ring.
    areas: [u64; 3],
}

/// The driver's side of the structure. Status and vectors live in [`DeviceState`].
#[derive(Debug)]
pub struct Common {
    offered: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    accepted: u64,
    queue_select: u16,
    queues: Vec<QueueRegisters>,
}

impl Common {
    /// Registers of a device that offers `offered` and has queues of at most `queue_sizes`.
    pub fn new(offered: u64, queue_sizes: &[u16]) -> Self {
        let queues = queue_sizes.iter().map(|&max_size| QueueRegisters {
            max_size,
            size: max_size,
            ..QueueRegisters::default()
        });
        Self {
            offered,
            device_feature_select: 0,
            driver_feature_select: 0,
            accepted: 0,
            queue_select: 0,
            queues: queues.collect(),
        }
    }

    /// Features that the driver has written.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Back to how it was made.
    pub fn reset(&mut self) {
        let sizes: Vec<u16> = self.queues.iter().map(|queue| queue.max_size).collect();
        *self = Self::new(self.offered, &sizes);
    }

    /// The queues that the driver has enabled, for the worker.
    pub fn enabled_queues(&self) -> Vec<Option<QueueState>> {
        let state = |queue: &QueueRegisters| QueueState {
            max_size: queue.max_size,
            next_avail: 0,
            next_used: 0,
            event_idx_enabled: false,
            size: queue.size,
            ready: true,
            desc_table: queue.areas[0],
            avail_ring: queue.areas[1],
            used_ring: queue.areas[2],
        };
        let queues = self.queues.iter();
        queues.map(|q| q.enabled.then(|| state(q))).collect()
    }

    /// The driver reads; any width and alignment works.
    pub fn read(&self, state: &DeviceState, offset: u64, data: &mut [u8]) {
        let image = self.image(state);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (byte, value) in data.iter_mut().zip(image.iter().skip(start)) {
            *byte = *value;
        }
    }

    /// The structure as bytes.
    fn image(&self, state: &DeviceState) -> [u8; to_usize(COMMON_LEN)] {
        let mut image = [0; to_usize(COMMON_LEN)];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.device_feature_select.to_le_bytes());
        put(
            4,
            &word(self.offered, self.device_feature_select).to_le_bytes(),
        );
        put(8, &self.driver_feature_select.to_le_bytes());
        put(
            12,
            &word(self.accepted, self.driver_feature_select).to_le_bytes(),
        );
        put(16, &state.interrupts.config_vector().to_le_bytes());
        let queues = u16::try_from(self.queues.len()).expect("queues have 16-bit numbers");
        put(18, &queues.to_le_bytes());
        put(20, &[state.status().bits(), state.generation()]);
        put(22, &self.queue_select.to_le_bytes());
        // A queue that does not exist has size 0 (4.1.4.3.1).
        if let Some(queue) = self.queues.get(usize::from(self.queue_select)) {
            put(24, &queue.size.to_le_bytes());
            put(28, &u16::from(queue.enabled).to_le_bytes());
            put(30, &self.queue_select.to_le_bytes());
            for (at, area) in [32, 40, 48].into_iter().zip(queue.areas) {
                put(at, &area.to_le_bytes());
            }
        }
        let vector = state.interrupts.queue_vector(self.queue_select);
        put(26, &vector.to_le_bytes());
        image
    }

    /// The driver writes a field at its natural width, or a 64-bit one in two halves (4.1.3.1);
    /// anything else is dropped. A write to the status register is returned for the transport to
    /// act on.
    pub fn write(&mut self, state: &DeviceState, offset: u64, data: &[u8]) -> Option<u8> {
        let mut wide = [0; 8];
        wide.get_mut(..data.len())?.copy_from_slice(data);
        let value = u64::from_le_bytes(wide);
        let [a, b, c, d, ..] = wide;
        let (half, word) = (u16::from_le_bytes([a, b]), u32::from_le_bytes([a, b, c, d]));
        match (offset, data.len()) {
            (0, 4) => self.device_feature_select = word,
            (8, 4) => self.driver_feature_select = word,
            (12, 4) => self.accept(state, word),
            (16, 2) => state.interrupts.set_config_vector(half),
            (20, 1) => return Some(a),
            (22, 2) => self.queue_select = half,
            (26, 2) => state.interrupts.set_queue_vector(self.queue_select, half),
            (24 | 28, 2) | (32..56, 4 | 8) => self.write_queue(offset, value, data.len()),
            _ => {}
        }
        None
    }

    /// Negotiated features are settled once FEATURES_OK is set (2.2.1).
    fn accept(&mut self, state: &DeviceState, value: u32) {
        let shift = match self.driver_feature_select {
            0 => 0,
            1 => 32,
            _ => return,
        };
        if !state.status().contains(Status::FEATURES_OK) {
            self.accepted &= !(u64::from(u32::MAX) << shift);
            self.accepted |= u64::from(value) << shift;
        }
    }

    fn write_queue(&mut self, offset: u64, value: u64, len: usize) {
        let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)) else {
            return;
        };
        match offset {
            24 => {
                if let Ok(size) = u16::try_from(value)
                    && size.is_power_of_two()
                    && size <= queue.max_size
                {
                    queue.size = size;
                }
            }
            28 => queue.enabled |= value == 1,
            _ => {
                let at = to_usize(offset) - 32;
                let area = &mut queue.areas[at / 8];
                match (at % 8, len) {
                    (0, 8) => *area = value,
                    (0, 4) => *area = *area & !0xffff_ffff | value,
                    (4, 4) => *area = *area & 0xffff_ffff | value << 32,
                    _ => {}
                }
            }
        }
    }
}

/// The 32 feature bits that a select register chooses.
fn word(features: u64, select: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = features.to_le_bytes();
    match select {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}
