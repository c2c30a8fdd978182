//! The devices of the machine, and where the guest finds them.

use std::{
    io,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use strata_devices::{
    acpi::{
        SCI_GSI,
        hotplug::{EventPorts, HotPlug, SlotPorts},
        pm::{PmBlock, PowerSignals},
    },
    bus::Overlap,
    fw_cfg::FwCfg,
    legacy::{
        Signal,
        debug_port::DebugPort,
        exit_port::ExitPort,
        i8042::I8042,
        pvpanic::{PanicEvents, PanicSignal, PvPanic},
        reset::SystemControl,
        rtc::{MemorySize, Rtc, RtcTimer},
        serial::{Output, SerialPort},
        test_device::{DrivenLines, FlushPort, Kept},
    },
    pci::{
        self, BarAllocator, ConfigPorts, PciRoot, SharedPciDevice, Slot, SlotTaken, Window,
        bridges::{self, HOST_BRIDGE, ISA_BRIDGE},
        intx::Pirqs,
    },
};

use super::{
    post::{GuestEvent, Post},
    vcpus::Buses,
};
use crate::{
    cli::ending::ExitPortOption,
    kvm::{irq::Router, raw::Vm},
    layout,
};

/// The name in logs of what firmware says to its debug port.
const FIRMWARE_LOG: &str = "strata::firmware";

/// Devices that are there whatever disks a machine has.
pub struct Board {
    /// Addresses for their BARs.
    pub bars: BarAllocator,
    /// What pins of PCI devices are wired to.
    pub pirqs: Arc<Pirqs>,
    /// The serial port, for its input.
    pub serial: Arc<Mutex<SerialPort>>,
    /// The second one, where a command's streams travel.
    command: Option<Arc<Mutex<SerialPort>>>,
    pci: Arc<Mutex<PciRoot>>,
    pm: Arc<Mutex<PmBlock>>,
    hot_plug: Arc<Mutex<HotPlug>>,
    i8042: Arc<Mutex<I8042>>,
    rtc: Arc<Mutex<Rtc>>,
    /// What firmware reads.
    fw_cfg: Option<Arc<Mutex<FwCfg>>>,
}

/// Devices that do not fit together: the layout is fixed in code, so only a mistake there or a
/// host out of file descriptors lets this fail.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// Two of them at one address.
    #[error(transparent)]
    Overlap(#[from] Overlap),
    /// Two of them in one slot.
    #[error(transparent)]
    Slot(#[from] SlotTaken),
    /// No file descriptor left.
    #[error("could not make an eventfd or a timer: {0}")]
    EventFd(#[from] io::Error),
}

impl Board {
    /// Puts the devices on `buses`. `memory` is the guest's memory in bytes, `output` the serial
    /// line.
    ///
    /// # Errors
    /// [`BoardError`].
    pub fn new(
        buses: &mut Buses,
        router: &Arc<Router>,
        vm: &Arc<Vm>,
        post: &Post,
        memory: u64,
        output: Output,
    ) -> Result<Self, BoardError> {
        let reset = signal(post, || GuestEvent::Reset);
        let power = PowerSignals {
            power_off: signal(post, || GuestEvent::PowerOff),
            suspend: signal(post, || GuestEvent::Suspended),
            wake_up: signal(post, || GuestEvent::WokenUp),
        };
        let pm = shared(PmBlock::new(router.line(SCI_GSI), power));
        let ejected = signal(post, || GuestEvent::Ejected);
        let hot_plug = shared(HotPlug::new(router.line(SCI_GSI), ejected));
        let i8042 = shared(I8042::new(Arc::clone(&reset)));
        let alarm = alarm_signal(&pm);
        let rtc = Rtc::new(memory_size(memory), router.line(Rtc::IRQ), alarm)?;
        let rtc = shared(rtc);
        let serial = shared(SerialPort::new(router.line(SerialPort::COM1_IRQ), output)?);
        let pci = Arc::new(Mutex::new(PciRoot::default()));
        lock(&pci).insert(HOST_BRIDGE, bridges::host_bridge(protect(vm)))?;
        let pirqs = Pirqs::new(|irq| router.line(irq));
        lock(&pci).insert(ISA_BRIDGE, bridges::isa_bridge(Arc::clone(&pirqs)))?;

        let ports = &mut buses.ports;
        ports.insert(PmBlock::BASE, PmBlock::LEN, pm.clone())?;
        let slots = shared(SlotPorts(hot_plug.clone()));
        ports.insert(SlotPorts::BASE, SlotPorts::LEN, slots)?;
        let events = shared(EventPorts(hot_plug.clone()));
        ports.insert(EventPorts::BASE, EventPorts::LEN, events)?;
        ports.insert(I8042::DATA, I8042::LEN, i8042.clone())?;
        ports.insert(Rtc::BASE, Rtc::LEN, rtc.clone())?;
        ports.insert(SerialPort::COM1, SerialPort::LEN, serial.clone())?;
        let panic = shared(PvPanic::new(panic_signal(post)));
        ports.insert(PvPanic::PORT, PvPanic::LEN, panic)?;
        let control = shared(SystemControl::new(Arc::clone(&reset)));
        ports.insert(SystemControl::PORT, 1, control)?;
        let config = ConfigPorts::new(Arc::clone(&pci), Box::new(move || reset()));
        ports.insert(
            pci::CONFIG_PORTS_BASE,
            pci::CONFIG_PORTS_LEN,
            shared(config),
        )?;
        let io = shared(Window::io(Arc::clone(&pci)));
        ports.insert(pci::IO_WINDOW_BASE, pci::IO_WINDOW_LEN, io)?;
        let window = shared(Window::memory(Arc::clone(&pci)));
        let (base, len) = (pci::MMIO_WINDOW_BASE, pci::MMIO_WINDOW_LEN);
        buses.mmio.insert(base, len, window)?;
        Ok(Self {
            bars: BarAllocator::default(),
            pirqs,
            serial,
            command: None,
            pci,
            pm,
            hot_plug,
            i8042,
            rtc,
            fw_cfg: None,
        })
    }

    /// Adds the port by which the guest ends the run.
    ///
    /// # Errors
    /// Another device has it.
    pub fn add_exit_port(
        buses: &mut Buses,
        post: &Post,
        option: ExitPortOption,
    ) -> Result<(), Overlap> {
        let ExitPortOption { port, mapping } = option;
        let post = post.clone();
        let signal = move |value| post.guest(GuestEvent::Exited(mapping.code(value)));
        let device = shared(ExitPort::new(Arc::new(signal)));
        buses.ports.insert(port.into(), ExitPort::LEN, device)
    }

    /// Adds the device that test kernels want.
    ///
    /// # Errors
    /// Another device has its addresses.
    pub fn add_test_device(
        buses: &mut Buses,
        router: &Arc<Router>,
        vm: &Arc<Vm>,
    ) -> Result<(), Overlap> {
        let kept = |len| shared(Kept::new(len));
        let (ports, len) = (&mut buses.ports, Kept::PORTS_LEN);
        ports.insert(Kept::PORTS, len, kept(len))?;
        let lines = shared(DrivenLines::new(|gsi| router.line(gsi)));
        ports.insert(DrivenLines::BASE, DrivenLines::LEN, lines)?;
        let vm = Arc::clone(vm);
        let flush = shared(FlushPort(Box::new(move |page| vm.flush_page(page))));
        ports.insert(FlushPort::BASE, FlushPort::LEN, flush)?;
        let len = Kept::MEMORY_LEN;
        buses.mmio.insert(Kept::MEMORY, len, kept(len))
    }

    /// Adds the second serial port, whose output goes to `output`; the port, for its input.
    ///
    /// # Errors
    /// [`BoardError`].
    pub fn add_command_port(
        &mut self,
        buses: &mut Buses,
        router: &Arc<Router>,
        output: Output,
    ) -> Result<Arc<Mutex<SerialPort>>, BoardError> {
        let port = shared(SerialPort::new(router.line(SerialPort::COM2_IRQ), output)?);
        buses
            .ports
            .insert(SerialPort::COM2, SerialPort::LEN, port.clone())?;
        self.command = Some(Arc::clone(&port));
        Ok(port)
    }

    /// What lets the clock interrupt, on the event loop.
    pub fn clock(&self) -> RtcTimer {
        RtcTimer::of(&self.rtc)
    }

    /// Adds what only firmware uses.
    ///
    /// # Errors
    /// Another device has the ports.
    pub fn add_firmware(&mut self, buses: &mut Buses, fw_cfg: FwCfg) -> Result<(), Overlap> {
        let fw_cfg = shared(fw_cfg);
        let ports = &mut buses.ports;
        ports.insert(FwCfg::BASE, FwCfg::LEN, fw_cfg.clone())?;
        self.fw_cfg = Some(fw_cfg);
        // Firmware writes thousands of characters, one by one, where it finds the port.
        if tracing::enabled!(target: FIRMWARE_LOG, tracing::Level::DEBUG) {
            let sink = |line: &str| tracing::debug!(target: FIRMWARE_LOG, "{line}");
            let port = shared(DebugPort::new(Box::new(sink)));
            ports.insert(DebugPort::PORT, DebugPort::LEN, port)?;
        }
        Ok(())
    }

    /// Brings all devices into the state after power-on. No vCPU runs, and no request is under way.
    pub fn reset(&self) {
        lock(&self.pm).reset();
        lock(&self.hot_plug).reset();
        lock(&self.pci).reset();
        self.reset_unpowered();
    }

    /// Brings devices into the state in which a guest finds them that had suspended to memory: as
    /// after power-on, but for what has power then, too.
    pub fn wake_up(&self) {
        lock(&self.pm).wake_up();
        lock(&self.pci).wake_up();
        self.reset_unpowered();
        lock(&self.rtc).announce_resume();
    }

    /// What the guest wants of its next start, as [`Rtc::shutdown_status`] has it.
    pub fn shutdown_status(&self) -> u8 {
        lock(&self.rtc).shutdown_status()
    }

    /// Resets what has no power while a guest is suspended to memory, but for the PCI bus.
    fn reset_unpowered(&self) {
        lock(&self.i8042).reset();
        lock(&self.rtc).reset();
        for port in [&self.serial].into_iter().chain(&self.command) {
            lock(port).reset();
        }
        if let Some(fw_cfg) = &self.fw_cfg {
            lock(fw_cfg).reset();
        }
    }

    /// Puts a disk's controller on the PCI bus.
    ///
    /// # Errors
    /// The slot is taken.
    pub fn insert(&self, slot: Slot, function: SharedPciDevice) -> Result<(), SlotTaken> {
        lock(&self.pci).insert(slot, function)
    }

    /// The first of the PCI device numbers in `wanted` that no device has.
    pub fn free_device(&self, mut wanted: Range<u8>) -> Option<u8> {
        let pci = lock(&self.pci);
        wanted.find(|device| !pci.is_taken(Slot::new(*device, 0)))
    }

    /// Tells the guest of a device that has come, and that it may let go of.
    pub fn plug(&self, device: u8) {
        lock(&self.hot_plug).plug(device);
    }

    /// Asks the guest to let go of a device. Whether it had not been asked.
    pub fn ask_to_eject(&self, device: u8) -> bool {
        lock(&self.hot_plug).ask_to_eject(device)
    }

    /// Devices that the guest has let go of, as bits.
    pub fn take_ejected(&self) -> u32 {
        lock(&self.hot_plug).take_ejected()
    }

    /// Takes a device off the bus. Its interrupt is low, and its worker has been asked to release
    /// the guest's memory.
    pub fn remove(&self, device: u8) -> Option<SharedPciDevice> {
        let function = lock(&self.pci).remove(Slot::new(device, 0))?;
        lock(&function).reset();
        Some(function)
    }

    /// The guest, which is suspended to memory, is to wake up.
    pub fn ask_to_wake_up(&self) {
        lock(&self.pm).ask_to_wake_up();
    }

    /// Whether the guest has suspended to memory, and has been neither woken nor reset since.
    pub fn is_asleep(&self) -> bool {
        lock(&self.pm).is_asleep()
    }

    /// Whether the guest is suspended to memory and something has happened that is to wake it.
    pub fn is_to_wake_up(&self) -> bool {
        lock(&self.pm).is_to_wake_up()
    }

    /// Asks the guest to power off.
    pub fn press_power_button(&self) {
        lock(&self.pm).press_power_button();
    }
}

fn shared<T>(device: T) -> Arc<Mutex<T>> {
    Arc::new(Mutex::new(device))
}

fn lock<T: ?Sized>(device: &Mutex<T>) -> MutexGuard<'_, T> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets devices report `event` to the machine.
fn signal(post: &Post, event: fn() -> GuestEvent) -> Signal {
    let post = post.clone();
    Arc::new(move || post.guest(event()))
}

/// Lets the host bridge protect memory.
fn protect(vm: &Arc<Vm>) -> bridges::Protect {
    let vm = Arc::clone(vm);
    Box::new(move |segment, writable| {
        if let Err(error) = vm.protect(segment, writable) {
            tracing::error!(%error, ?segment, "a part of the guest's memory was lost");
        }
    })
}

/// Lets the panic device report to the machine.
fn panic_signal(post: &Post) -> PanicSignal {
    let post = post.clone();
    Arc::new(move |events| {
        if events.contains(PanicEvents::CRASH_LOADED) {
            post.guest(GuestEvent::CrashLoaded);
        }
        if events.contains(PanicEvents::PANICKED) {
            post.guest(GuestEvent::Panicked);
        }
    })
}

/// Lets the clock's alarm wake a guest that sleeps.
fn alarm_signal(pm: &Arc<Mutex<PmBlock>>) -> Signal {
    let pm = Arc::clone(pm);
    Arc::new(move || lock(&pm).clock_alarm())
}

fn memory_size(memory: u64) -> MemorySize {
    let low = layout::low_memory(memory);
    MemorySize {
        below_4g: low,
        above_4g: memory - low,
    }
}
