//! [`VirtioPci`]: a virtio device as a PCI function (virtio 1.2, 4.1).

use std::{io, sync::Arc};

use vmm_sys_util::eventfd::EventFd;

use super::{
    VirtioDevice,
    common::{COMMON_LEN, Common},
    doorbells::{Doorbells, STRIDE},
    state::{DeviceState, Status},
};
use crate::{
    host::{IrqLine, PciHost},
    pci::{
        BarAllocator, ConfigSpace, Identity, NoRoom, PciDevice,
        config::{BarKind, Command},
        msix,
    },
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;

const VENDOR: u16 = 0x1af4;
/// Modern devices have PCI device ids from here on (4.1.2.1).
const DEVICE_BASE: u16 = 0x1040;
const CAPABILITY_VENDOR: u8 = 0x09;

/// The one BAR, and what lies where in it: a page each.
const BAR: usize = 0;
const BAR_NUMBER: u8 = 0;
const BAR_LEN: u64 = 0x8000;
const REGION_LEN: u64 = 0x1000;
const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const MSIX_TABLE: u64 = 0x4000;
const MSIX_PENDING: u64 = 0x5000;

/// `cfg_type` of the virtio capabilities (4.1.4).
const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_ISR: u8 = 3;
const CFG_DEVICE: u8 = 4;
const CFG_PCI: u8 = 5;

/// The MSI-X table's page bounds the number of queues: a vector each and one for configuration.
pub(super) const MAX_QUEUES: u16 = 64;

/// Why a device could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The host has no eventfd or no vector left.
    #[error("no interrupt vector or eventfd left for a virtio device: {0}")]
    Host(#[from] io::Error),
    /// The memory window is full.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
}

/// What a PCI function gets from the machine around it.
pub struct PciSeat<'a> {
    /// Vectors and doorbells.
    pub host: Arc<dyn PciHost>,
    /// The line that the function's INTA# pin is wired to.
    pub line: Arc<dyn IrqLine>,
    /// The ISA interrupt that a BIOS would show in the interrupt line register.
    pub irq: u8,
    /// Where BAR addresses come from.
    pub bars: &'a mut BarAllocator,
    /// The function comes into a machine that runs: the guest gives its BARs their addresses.
    pub hot: bool,
}

/// The front half of a virtio device.
pub(crate) struct VirtioPci {
    config: ConfigSpace,
    /// Offsets in configuration space.
    msix_capability: usize,
    pci_cfg_capability: usize,
    device: Box<dyn VirtioDevice>,
    common: Common,
    state: Arc<DeviceState>,
    doorbells: Doorbells,
    /// The worker has been given rings.
    active: bool,
    /// The worker has been asked to drain; the status register says when it has.
    resetting: bool,
}

impl VirtioPci {
    /// A device whose worker shares `state` and waits on `kicks`, one per queue.
    ///
    /// # Errors
    /// [`NoRoom`] for its BAR.
    pub(super) fn new(
        device: Box<dyn VirtioDevice>,
        state: Arc<DeviceState>,
        kicks: Vec<EventFd>,
        seat: PciSeat<'_>,
    ) -> Result<Self, NoRoom> {
        let mut config = ConfigSpace::new(Identity {
            vendor: VENDOR,
            device: DEVICE_BASE + device.device_type(),
            class: device.class_code(),
            revision: 1,
            subsystem: (VENDOR, DEVICE_BASE + device.device_type()),
            multi_function: false,
        });
        config.add_bar(BAR, BarKind::Memory64, BAR_LEN, seat.bars.memory(BAR_LEN)?);
        config.set_interrupt(seat.irq);
        let (body, writable) = state.interrupts.with_msix(|table| {
            table.capability(BAR_NUMBER, in_bar(MSIX_TABLE), in_bar(MSIX_PENDING))
        });
        let msix_capability = config.add_capability(msix::CAPABILITY_ID, &body, &writable);
        let pci_cfg_capability = add_virtio_capabilities(&mut config, kicks.len() as u64);
        let mut function = Self {
            config,
            msix_capability,
            pci_cfg_capability,
            common: Common::new(device.features(), &device.queue_sizes()),
            device,
            state,
            doorbells: Doorbells::new(seat.host, kicks),
            active: false,
            resetting: false,
        };
        if seat.hot {
            function.config.unconfigure();
        }
        function.follow_config();
        Ok(function)
    }

    /// Brings everything in line with what configuration space says now.
    fn follow_config(&mut self) {
        let command = self.config.command();
        let intx_disabled = command.contains(Command::INTX_DISABLE);
        let control = self.config.u16_at(self.msix_capability + msix::CONTROL);
        self.state.interrupts.set_controls(intx_disabled, control);
        let bar = self.config.bar(BAR);
        self.doorbells
            .move_to(bar.and_then(|bar| bar.base.checked_add(NOTIFY)));
        if self
            .state
            .set_bus_master(command.contains(Command::BUS_MASTER))
            && self.active
        {
            self.device.wake();
        }
    }

    /// The driver writes the status register (4.1.4.3.1, 3.1.1).
    fn write_status(&mut self, value: u8) {
        let old = self.state.status();
        if self.resetting {
            // The driver has to wait for 0 before it goes on.
            if !old.is_empty() {
                return;
            }
            self.resetting = false;
        }
        if value == 0 {
            return self.start_reset();
        }
        let mut new = Status::from_bits_truncate(value);
        if !old.contains(Status::FEATURES_OK) && !self.acceptable() {
            new.remove(Status::FEATURES_OK);
        }
        if !new.contains(Status::FEATURES_OK) {
            new.remove(Status::DRIVER_OK);
        }
        self.state.set_status(new);
        if new.contains(Status::DRIVER_OK) && !self.active {
            self.active = true;
            self.state.interrupts.start();
            let queues = self.common.enabled_queues();
            self.device.activate(self.common.accepted(), queues);
        }
    }

    /// Whether the driver has accepted a set of features that the device can work with (2.2.2,
    /// 6.2).
    fn acceptable(&self) -> bool {
        let accepted = self.common.accepted();
        accepted & !self.device.features() == 0 && accepted & 1 << VIRTIO_F_VERSION_1 != 0
    }

    /// Forgets the driver. The status register reads 0 once the worker has drained (2.4.1).
    fn start_reset(&mut self) {
        self.common.reset();
        self.state.interrupts.reset_device();
        if self.active {
            self.active = false;
            self.resetting = true;
            self.device.reset();
        } else if !self.resetting {
            self.state.reset_done();
        }
    }

    /// Runs the access that the PCI configuration access capability describes (4.1.4.9): BAR,
    /// offset and length lie before the data window.
    fn window(&self) -> Option<(u64, usize)> {
        let at = self.pci_cfg_capability;
        let [bar, ..] = self.config.u32_at(at + 4).to_le_bytes();
        let offset = self.config.u32_at(at + 8);
        let len = self.config.u32_at(at + 12);
        let valid = usize::from(bar) == BAR
            && matches!(len, 1 | 2 | 4)
            && offset.is_multiple_of(len)
            && u64::from(offset) < BAR_LEN;
        valid.then_some((u64::from(offset), len as usize))
    }

    /// Whether a configuration access meets the data window.
    fn in_window(&self, offset: usize) -> bool {
        (self.pci_cfg_capability + 16..self.pci_cfg_capability + 20).contains(&offset)
    }
}

/// Adds the five virtio capabilities; returns the offset of the last, for PCI configuration access.
fn add_virtio_capabilities(config: &mut ConfigSpace, queues: u64) -> usize {
    let structures = [
        (CFG_COMMON, COMMON, COMMON_LEN, &[][..]),
        (
            CFG_NOTIFY,
            NOTIFY,
            queues * STRIDE,
            &in_bar(STRIDE).to_le_bytes(),
        ),
        (CFG_ISR, ISR, 1, &[]),
        (CFG_DEVICE, DEVICE, REGION_LEN, &[]),
    ];
    for (kind, offset, len, more) in structures {
        let body = virtio_capability(kind, in_bar(offset), in_bar(len), more);
        config.add_capability(CAPABILITY_VENDOR, &body, &[]);
    }
    let body = virtio_capability(CFG_PCI, 0, 0, &[0; 4]);
    // The driver writes BAR number, offset and length; the data window is handled apart.
    let writable = [0, 0, 0xff, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255];
    config.add_capability(CAPABILITY_VENDOR, &body, &writable)
}

/// An offset or a length in the BAR, as capabilities say it.
fn in_bar(offset: u64) -> u32 {
    u32::try_from(offset).expect("the BAR is shorter")
}

/// `struct virtio_pci_cap` without id and next pointer, followed by `more`.
fn virtio_capability(kind: u8, offset: u32, len: u32, more: &[u8]) -> Vec<u8> {
    let cap_len = u8::try_from(16 + more.len()).expect("the longest has 20 bytes");
    let mut body = vec![cap_len, kind, BAR_NUMBER, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(len.to_le_bytes());
    body.extend(more);
    body
}

impl PciDevice for VirtioPci {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        if self.in_window(offset) {
            if let Some((at, len)) = self.window().filter(|(_, len)| *len <= data.len()) {
                self.read_bar(BAR, at, &mut data[..len]);
            }
            return;
        }
        let pending = self.state.interrupts.intx_pending();
        self.config.set_interrupt_status(pending);
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        if self.in_window(offset) {
            if let Some((at, len)) = self.window().filter(|(_, len)| *len <= data.len()) {
                self.write_bar(BAR, at, &data[..len]);
            }
            return;
        }
        self.config.write(offset, data);
        self.follow_config();
    }

    fn read_bar(&mut self, _bar: usize, offset: u64, data: &mut [u8]) {
        let within = offset % REGION_LEN;
        // Registers that do not exist read as 0 inside the device's own BAR.
        data.fill(0);
        match offset - within {
            COMMON => self.common.read(&self.state, within, data),
            ISR if within == 0 => data[0] = self.state.interrupts.take_isr(),
            DEVICE => self.device.read_config(within, data),
            MSIX_TABLE => {
                let interrupts = &self.state.interrupts;
                interrupts.with_msix(|table| table.read_table(within, data));
            }
            MSIX_PENDING => {
                let interrupts = &self.state.interrupts;
                interrupts.with_msix(|table| table.read_pending(within, data));
            }
            _ => {}
        }
    }

    fn write_bar(&mut self, _bar: usize, offset: u64, data: &[u8]) {
        let within = offset % REGION_LEN;
        match offset - within {
            COMMON => {
                if let Some(status) = self.common.write(&self.state, within, data) {
                    self.write_status(status);
                }
            }
            DEVICE => {
                let features = self.common.accepted();
                self.device.write_config(features, within, data);
            }
            NOTIFY => self.doorbells.ring(within / STRIDE),
            MSIX_TABLE => {
                let interrupts = &self.state.interrupts;
                interrupts.with_msix(|table| table.write_table(within, data));
            }
            _ => {}
        }
    }

    fn reset(&mut self) {
        self.config.reset();
        self.state.interrupts.reset_function();
        self.start_reset();
        self.follow_config();
    }
}
