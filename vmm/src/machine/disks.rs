//! Opens the disks and puts their devices on the PCI bus.

mod meter;

use std::{cell::RefCell, io, ops::Range, rc::Rc, sync::Arc};

use event_manager::MutEventSubscriber;
use strata_block::{
    disk::Disk,
    engine::{DiskOptions, DiskSpec, Engine},
};
use strata_devices::{
    bus::Overlap,
    ide::{self, DriveOptions, IdeController, IdeWorker, Media},
    pci::{
        NoRoom, Slot, SlotTaken,
        bridges::IDE_FUNCTION,
        intx::{intx_gsi, intx_irq},
    },
    virtio::{PciSeat, SetupError, blk},
};
use strata_exec::Executor;
use vm_memory::GuestMemoryMmap;

use self::meter::Metered;
pub use self::meter::{DiskReport, Meter};
use super::{board::Board, vcpus::Buses};
use crate::{
    cli::{
        disk::{Cache, DiskOption, Interface, Numbering, Place},
        temporary::TemporaryArgs,
    },
    kvm::irq::{KvmPciHost, Router},
};

/// First PCI device number for disks; the bridges have those below.
const FIRST_DEVICE: u8 = 2;
/// Device numbers on a bus.
const DEVICES: u8 = 32;

/// A disk that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Two disks with one name.
    #[error("two disks have the name '{0}': give one of them another with id=NAME")]
    NameTaken(String),
    /// The image.
    #[error("disk {id}: {source}")]
    Open {
        /// The disk.
        id: String,
        /// What is wrong with it.
        source: strata_storage::error::Error,
    },
    /// A drive without a disc, and no device.
    #[error(
        "disk {0}: file=PATH is missing: a drive without a disc is a guest's, and there is no guest"
    )]
    NoFile(String),
    /// A choice for a device, and no device.
    #[error("disk {id}: {key} is about a guest's device, and there is no guest")]
    NoGuest {
        /// The disk.
        id: String,
        /// The key.
        key: &'static str,
    },
    /// The PCI bus is full.
    #[error("disk {0}: the PCI bus has no slot left")]
    NoSlot(String),
    /// A fifth IDE disk.
    #[error("disk {0}: IDE has room for four disks: use if=virtio")]
    NoIdePlace(String),
    /// The device.
    #[error("disk {id}: {source}")]
    Device {
        /// The disk.
        id: String,
        /// What the host refused.
        source: SetupError,
    },
    /// The host has no eventfd left for the IDE controller.
    #[error("the IDE controller: {0}")]
    Ide(#[from] io::Error),
    /// A slot of the fixed layout is taken.
    #[error(transparent)]
    Slot(#[from] SlotTaken),
    /// Ports of the fixed layout are taken.
    #[error(transparent)]
    Ports(#[from] Overlap),
    /// The window for BARs is full.
    #[error(transparent)]
    Bar(#[from] NoRoom),
}

/// The half of a disk's device that lives on the device thread.
#[derive(Clone)]
pub enum Worker {
    /// Of virtio-blk.
    Virtio(Rc<RefCell<blk::BlkWorker>>),
    /// Of the IDE controller with all its disks.
    Ide(Rc<RefCell<IdeWorker>>),
}

impl Worker {
    /// Fetches no more of the guest's requests.
    pub fn stop(&self) {
        match self {
            Self::Virtio(worker) => worker.borrow_mut().stop(),
            Self::Ide(worker) => worker.borrow_mut().stop(),
        }
    }

    /// Fetches again.
    pub fn cont(&self) {
        match self {
            Self::Virtio(worker) => worker.borrow_mut().cont(),
            Self::Ide(worker) => worker.borrow_mut().cont(),
        }
    }

    /// Whether none of the guest's requests is under way.
    pub fn is_idle(&self) -> bool {
        match self {
            Self::Virtio(worker) => worker.borrow().is_idle(),
            Self::Ide(worker) => worker.borrow().is_idle(),
        }
    }

    /// Whether both are the same.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Virtio(one), Self::Virtio(other)) => Rc::ptr_eq(one, other),
            (Self::Ide(one), Self::Ide(other)) => Rc::ptr_eq(one, other),
            _ => false,
        }
    }

    /// Disks may have another size now: guests are notified.
    pub fn resized(&self) {
        match self {
            Self::Virtio(worker) => worker.borrow().resized(),
            Self::Ide(worker) => worker.borrow().resized(),
        }
    }

    /// For the event loop.
    pub fn subscriber(&self) -> Box<dyn MutEventSubscriber> {
        match self {
            Self::Virtio(worker) => Box::new(Rc::clone(worker)),
            Self::Ide(worker) => Box::new(Rc::clone(worker)),
        }
    }
}

/// Where devices are put.
pub struct Seats<'a> {
    /// The PCI bus and its addresses.
    pub board: &'a mut Board,
    /// For devices with fixed ports.
    pub buses: &'a mut Buses,
    /// Interrupts.
    pub router: &'a Arc<Router>,
    /// What disks read into and write from.
    pub memory: &'a Arc<GuestMemoryMmap>,
    /// The guest's processors: a virtio-blk device has a queue for each, so that they do not wait
    /// for each other in the guest's driver.
    pub cpus: u8,
    /// What disks' requests run on.
    pub exec: &'a Rc<Executor>,
}

/// Opens `disks` in the order given and makes their devices, with what measures each of them.
///
/// # Errors
/// The first disk that cannot be used.
pub fn attach(
    engine: &Rc<Engine>,
    (disks, temporary): (&[DiskOption], &TemporaryArgs),
    seats: &mut Seats<'_>,
) -> Result<(Vec<Worker>, Vec<Rc<Meter>>), DiskError> {
    let mut numbering = Numbering::default();
    let mut ids: Vec<String> = Vec::new();
    let (mut workers, mut meters) = (Vec::new(), Vec::new());
    let mut ide_disks: [Option<(Disk, DriveOptions)>; 4] = Default::default();
    for option in disks {
        let place = numbering.place(option);
        if ids.contains(&place.id) {
            return Err(DiskError::NameTaken(place.id));
        }
        let spec = spec(option, &place, temporary);
        let opened = if option.is_empty() {
            engine.add_empty_drive(spec)
        } else {
            engine.open_disk(spec)
        };
        let disk = opened.map_err(|source| DiskError::Open {
            id: place.id.clone(),
            source,
        })?;
        let (disk, meter) = metered(place.id.clone(), disk);
        match option.interface {
            Interface::Virtio => workers.push(seats.virtio(disk, place.index)?),
            Interface::Ide => match ide_disks.get_mut(place.index) {
                Some(seat) => *seat = Some((disk, drive(option))),
                None => return Err(DiskError::NoIdePlace(place.id)),
            },
            Interface::None => {}
        }
        if option.interface != Interface::None {
            meters.push(meter);
        }
        ids.push(place.id);
    }
    if ide_disks.iter().any(Option::is_some) {
        let ids = ide_disks
            .each_ref()
            .map(|disk| disk.as_ref().map(|(disk, _)| disk.info().id.clone()));
        let mut worker = seats.ide(ide_disks)?;
        connect_trays(engine, &mut worker, ids);
        workers.push(Worker::Ide(Rc::new(RefCell::new(worker))));
    }
    Ok((workers, meters))
}

/// Has the block layer move the trays of CD drives, and learn of those that the guest moves. `ids`
/// are the drives', by their places.
fn connect_trays(engine: &Rc<Engine>, worker: &mut IdeWorker, ids: [Option<String>; 4]) {
    for (place, id) in ids.iter().enumerate() {
        if let (Some(id), Some(tray)) = (id, worker.tray(place)) {
            engine.set_tray(id, tray);
        }
    }
    let engine = Rc::clone(engine);
    worker.report_trays_to(Box::new(move |place, open| {
        if let Some(id) = &ids[place] {
            engine.tray_moved(id, open);
        }
    }));
}

/// What the block layer needs to know.
pub fn spec(option: &DiskOption, place: &Place, temporary: &TemporaryArgs) -> DiskSpec {
    let mut spec = DiskSpec {
        path: option.file.clone(),
        ..Default::default()
    };
    spec.image.format = option.format;
    spec.image.backing_format = option.backing_format;
    spec.image.backing_folders = option.backing_folders.clone();
    spec.image.read_only = option.read_only;
    spec.image.no_flush = option.cache == Cache::Unsafe;
    spec.image.direct = option.cache == Cache::None;
    spec.image.aio = option.aio;
    spec.image.discard = option.discard;
    spec.image.reconnect_delay = option.reconnect_delay;
    spec.image.node_name = option.node_name.clone();
    spec.disk = DiskOptions {
        id: place.id.clone(),
        device: device_path(option.interface, place.index),
        serial: option.serial.clone(),
        writethrough: option.cache == Cache::Writethrough,
        discard: option.discard,
        detect_zeroes: option.detect_zeroes,
        temporary: temporary.directory_for(option),
        errors: option.errors(),
        removable: option.media == Media::Cdrom,
        logical_block_size: option.logical_block_size,
        physical_block_size: option.physical_block_size,
        throttling: option.throttling.clone(),
        ..Default::default()
    };
    spec
}

/// The PCI device number of the `index`-th virtio-blk device, if the bus has so many.
pub fn virtio_device(index: usize) -> Option<u8> {
    let device = u8::try_from(index).ok()?.checked_add(FIRST_DEVICE)?;
    (device < DEVICES).then_some(device)
}

/// What the IDE controller needs to know besides.
fn drive(option: &DiskOption) -> DriveOptions {
    DriveOptions {
        media: option.media,
        wwn: option.wwn,
        rotational: option.rotational.unwrap_or(false),
    }
}

/// The path that QEMU gives the `index`-th device of its kind (`qdev`), for `query-block` and
/// `info block`; empty for none.
fn device_path(interface: Interface, index: usize) -> String {
    match interface {
        Interface::Virtio => format!("/machine/peripheral-anon/device[{index}]/virtio-backend"),
        Interface::Ide => format!("/machine/unattached/device[{index}]"),
        Interface::None => String::new(),
    }
}

/// Puts devices into a machine that has been put together.
pub struct Plug {
    /// Interrupts.
    pub router: Arc<Router>,
    /// What disks read into and write from.
    pub memory: Arc<GuestMemoryMmap>,
    /// The guest's processors.
    pub cpus: u8,
    /// What disks' requests run on.
    pub exec: Rc<Executor>,
    /// Where the changes of throw-away disks go.
    pub temporary: TemporaryArgs,
}

impl Plug {
    /// PCI device numbers for disks.
    pub const DEVICES: Range<u8> = FIRST_DEVICE..DEVICES;

    /// A virtio-blk device for `disk` in the slot `device` of `board`. If `hot` the guest
    /// configures it.
    ///
    /// # Errors
    /// What the host refuses.
    pub fn virtio(
        &self,
        board: &mut Board,
        disk: Disk,
        device: u8,
        hot: bool,
    ) -> Result<Worker, DiskError> {
        let mut seats = Seats {
            board,
            buses: &mut Buses::default(),
            router: &self.router,
            memory: &self.memory,
            cpus: self.cpus,
            exec: &self.exec,
        };
        seats.virtio_in(disk, device, hot)
    }
}

/// Puts a meter between a disk, called `id` in the run's result, and its device.
pub fn metered(id: String, disk: Disk) -> (Disk, Rc<Meter>) {
    let meter = Meter::new(id);
    let metered = Metered {
        disk,
        meter: Rc::clone(&meter),
    };
    (Disk::new(Rc::new(metered)), meter)
}

impl Seats<'_> {
    /// A virtio-blk device, the `index`-th.
    fn virtio(&mut self, disk: Disk, index: usize) -> Result<Worker, DiskError> {
        let no_slot = || DiskError::NoSlot(disk.info().id.clone());
        let device = virtio_device(index).ok_or_else(no_slot)?;
        self.virtio_in(disk, device, false)
    }

    /// A virtio-blk device in the slot `device`.
    fn virtio_in(&mut self, disk: Disk, device: u8, hot: bool) -> Result<Worker, DiskError> {
        let info = disk.info();
        let seat = PciSeat {
            host: Arc::new(KvmPciHost::new(Arc::clone(self.router))),
            line: self
                .board
                .pirqs
                .pin(device, 0, self.router.line(intx_gsi(device, 0))),
            irq: intx_irq(device, 0),
            bars: &mut self.board.bars,
            hot,
        };
        let (function, parts) = blk::create(&info, self.cpus.into(), Arc::clone(self.memory), seat)
            .map_err(|source| DiskError::Device {
                id: info.id.clone(),
                source,
            })?;
        self.board.insert(Slot::new(device, 0), function)?;
        let worker = parts.into_worker(disk, Rc::clone(self.exec));
        Ok(Worker::Virtio(Rc::new(RefCell::new(worker))))
    }

    /// The IDE controller: primary master and slave, then secondary.
    fn ide(&mut self, disks: [Option<(Disk, DriveOptions)>; 4]) -> Result<IdeWorker, DiskError> {
        let infos = disks
            .each_ref()
            .map(|disk| disk.as_ref().map(|(disk, options)| (disk.info(), *options)));
        let bus_master = self.board.bars.io(ide::BUS_MASTER_LEN)?;
        let (controller, parts) = IdeController::new(
            infos.each_ref().map(|drive| {
                drive
                    .as_ref()
                    .map(|(info, options)| (info.as_ref(), *options))
            }),
            Arc::clone(self.memory),
            ide::IRQS.map(|irq| self.router.line(irq)),
            bus_master,
        )?;
        controller.insert_ports(&mut self.buses.ports)?;
        self.board.insert(IDE_FUNCTION, controller.function())?;
        Ok(parts.into_worker(disks.map(|disk| disk.map(|(disk, _)| disk))))
    }
}
