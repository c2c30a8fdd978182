//! Interrupts: wires into the controllers in the kernel, message-signalled vectors through
//! irqfd, doorbells through ioeventfd. The one owner of the table of routes.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch};
use strata_devices::host::{IrqLine, MsiMessage, MsiVector, PciHost};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{raw::Vm, to_io};

/// Inputs of the I/O APIC.
const IOAPIC_PINS: u32 = 24;
/// Inputs of the two 8259s.
const PIC_PINS: u32 = 16;
/// Vectors allocated at most; KVM's table holds 4096 routes.
const MAX_VECTORS: u32 = 2048;

/// The interrupt routes of one machine.
pub struct Router {
    vm: Arc<Vm>,
    wires: [Arc<Wire>; IOAPIC_PINS as usize],
    messages: Mutex<Messages>,
}

/// Message-signalled routes by GSI; numbers below [`IOAPIC_PINS`] are wires.
#[derive(Default)]
struct Messages {
    next: u32,
    /// Numbers of devices that have gone.
    free: Vec<u32>,
    routes: BTreeMap<u32, MsiMessage>,
}

impl Router {
    /// Routes the wires and nothing else.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(vm: Arc<Vm>) -> io::Result<Arc<Self>> {
        let router = Self {
            vm,
            wires: Default::default(),
            messages: Mutex::default(),
        };
        router.apply(&BTreeMap::new())?;
        Ok(Arc::new(router))
    }

    /// One more device's connection to the wire `gsi`, 0 to 23.
    pub fn line(self: &Arc<Self>, gsi: u32) -> Arc<dyn IrqLine> {
        Arc::new(Line {
            vm: Arc::clone(&self.vm),
            gsi,
            wire: Arc::clone(&self.wires[gsi as usize]),
            high: AtomicBool::new(false),
        })
    }

    /// Hands the whole table to the kernel.
    fn apply(&self, messages: &BTreeMap<u32, MsiMessage>) -> io::Result<()> {
        let mut entries = wires();
        entries.extend(messages.iter().map(|(&gsi, &message)| msi(gsi, message)));
        let table = KvmIrqRouting::from_entries(&entries)
            .map_err(|_| io::Error::other("too many interrupt routes"))?;
        self.vm.fd.set_gsi_routing(&table).map_err(to_io)
    }

    /// Routes `gsi` to `message`.
    fn set_route(&self, gsi: u32, message: MsiMessage) -> io::Result<()> {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages.set(gsi, message, |routes| self.apply(routes))
    }
}

impl Messages {
    /// A number that nobody has.
    fn take(&mut self) -> Option<u32> {
        if let Some(gsi) = self.free.pop() {
            return Some(gsi);
        }
        let gsi = IOAPIC_PINS + self.next;
        (self.next < MAX_VECTORS).then(|| {
            self.next += 1;
            gsi
        })
    }

    /// Its device has gone. The kernel may keep the route: nothing signals it.
    fn give_back(&mut self, gsi: u32) {
        self.routes.remove(&gsi);
        self.free.push(gsi);
    }

    /// Routes `gsi` to `message`; `apply` hands the table to the kernel. That takes it as a whole,
    /// and waits until no processor uses the old one: it only gets one that differs.
    fn set(
        &mut self,
        gsi: u32,
        message: MsiMessage,
        apply: impl FnOnce(&BTreeMap<u32, MsiMessage>) -> io::Result<()>,
    ) -> io::Result<()> {
        let before = self.routes.insert(gsi, message);
        if before == Some(message) {
            return Ok(());
        }
        let applied = apply(&self.routes);
        if applied.is_err() {
            // As the kernel still has it.
            match before {
                Some(before) => self.routes.insert(gsi, before),
                None => self.routes.remove(&gsi),
            };
        }
        applied
    }
}

/// GSI 0 to 15 go to the 8259s and GSI 0 to 23 to the I/O APIC. The timer's, 0, arrives at pin 2
/// there, as on every PC and as the MADT says.
fn wires() -> Vec<kvm_irq_routing_entry> {
    let mut entries = Vec::new();
    for gsi in (0..PIC_PINS).filter(|&gsi| gsi != 2) {
        let chip = match gsi {
            0..8 => KVM_IRQCHIP_PIC_MASTER,
            _ => KVM_IRQCHIP_PIC_SLAVE,
        };
        entries.push(wire(gsi, chip, gsi % 8));
    }
    for gsi in (0..IOAPIC_PINS).filter(|&gsi| gsi != 2) {
        let pin = if gsi == 0 { 2 } else { gsi };
        entries.push(wire(gsi, KVM_IRQCHIP_IOAPIC, pin));
    }
    entries
}

fn wire(gsi: u32, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_IRQCHIP,
        ..Default::default()
    };
    entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin };
    entry
}

fn msi(gsi: u32, message: MsiMessage) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    let [l0, l1, l2, l3, h0, h1, h2, h3] = message.address.to_le_bytes();
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: u32::from_le_bytes([l0, l1, l2, l3]),
        address_hi: u32::from_le_bytes([h0, h1, h2, h3]),
        data: message.data,
        ..Default::default()
    };
    entry
}

/// How many devices hold a wire high. PCI devices share theirs: one that lets go must not take
/// another's interrupt away.
#[derive(Default)]
struct Wire(Mutex<u32>);

impl Wire {
    /// A device whose level was `*before` sets it to `high`; `drive` is given the wire's level.
    fn set(&self, before: &AtomicBool, high: bool, drive: impl FnOnce(bool)) {
        let mut holders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (before.swap(high, Ordering::Relaxed), high) {
            (false, true) => *holders += 1,
            (true, false) => *holders -= 1,
            _ => return,
        }
        drive(*holders != 0);
    }
}

/// A device's connection to a wire into the controllers.
struct Line {
    vm: Arc<Vm>,
    gsi: u32,
    wire: Arc<Wire>,
    high: AtomicBool,
}

impl IrqLine for Line {
    fn set(&self, high: bool) {
        self.wire.set(&self.high, high, |level| {
            if let Err(error) = self.vm.fd.set_irq_line(self.gsi, level) {
                tracing::error!(gsi = self.gsi, %error, "KVM refused an interrupt");
            }
        });
    }
}

/// Gives PCI devices their vectors and doorbells.
pub struct KvmPciHost(Arc<Router>);

impl KvmPciHost {
    /// Vectors and doorbells of the machine whose routes `router` owns.
    pub fn new(router: Arc<Router>) -> Self {
        Self(router)
    }
}

impl PciHost for KvmPciHost {
    fn new_vector(&self) -> io::Result<Box<dyn MsiVector>> {
        let eventfd = EventFd::new(EFD_NONBLOCK)?;
        let mut messages = self
            .0
            .messages
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let gsi = messages
            .take()
            .ok_or_else(|| io::Error::other("no interrupt vector is left"))?;
        Ok(Box::new(Vector {
            router: Arc::clone(&self.0),
            gsi,
            eventfd,
            connected: Mutex::new(false),
        }))
    }

    fn attach_doorbell(&self, address: u64, doorbell: &EventFd) -> io::Result<()> {
        let vm = &self.0.vm.fd;
        vm.register_ioevent(doorbell, &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(to_io)
    }

    fn detach_doorbell(&self, address: u64, doorbell: &EventFd) -> io::Result<()> {
        let vm = &self.0.vm.fd;
        vm.unregister_ioevent(doorbell, &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(to_io)
    }
}

/// One message-signalled vector.
struct Vector {
    router: Arc<Router>,
    gsi: u32,
    eventfd: EventFd,
    /// Whether the kernel listens to the eventfd.
    connected: Mutex<bool>,
}

impl Vector {
    /// Makes the kernel listen to the eventfd or not.
    fn connect(&self, wanted: bool) -> io::Result<()> {
        let vm = &self.router.vm.fd;
        let mut connected = self
            .connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *connected != wanted {
            let changed = if wanted {
                vm.register_irqfd(&self.eventfd, self.gsi)
            } else {
                vm.unregister_irqfd(&self.eventfd, self.gsi)
            };
            changed.map_err(to_io)?;
            *connected = wanted;
        }
        Ok(())
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        if let Err(error) = self.connect(false) {
            tracing::warn!(gsi = self.gsi, %error, "an interrupt could not be disconnected");
        }
        let messages = self.router.messages.lock();
        let mut messages = messages.unwrap_or_else(PoisonError::into_inner);
        messages.give_back(self.gsi);
    }
}

impl MsiVector for Vector {
    fn route(&self, message: Option<MsiMessage>) -> io::Result<()> {
        match message {
            // The route first: a signal that is already in the eventfd goes out as soon as the
            // kernel listens.
            Some(message) => {
                self.router.set_route(self.gsi, message)?;
                self.connect(true)
            }
            // The route stays, and nothing takes it: guests mask a vector and unmask it as it was.
            None => self.connect(false),
        }
    }

    fn eventfd(&self) -> &EventFd {
        &self.eventfd
    }
}

#[cfg(test)]
mod tests;
