//! Where the pins INTA# to INTD# of PCI devices lead.
//!
//! Each is wired to an input of the I/O APIC of PCI's own, and to one of four lines, PIRQA# to
//! PIRQD#, that the PIIX3 takes to ISA interrupts: that is for guests that go by the 8259s, or by
//! the tables of firmware. A guest uses one of the two ways and leaves the other one masked.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::host::IrqLine;

const PIRQS: u8 = 4;
/// The first of the four I/O APIC inputs that PCI interrupts share; those below are ISA's.
const FIRST_GSI: u32 = 16;

/// ISA interrupts that a BIOS routes PIRQA# to PIRQD# to (SeaBIOS's `pci_irqs`).
pub const ROUTES: [u8; 4] = [10, 10, 11, 11];

/// The GSI that pin `pin` (0 for INTA# to 3 for INTD#) of device `device` on bus 0 is wired to.
/// Level-triggered, active low in ACPI's terms; KVM takes 1 for asserted.
pub fn intx_gsi(device: u8, pin: u8) -> u32 {
    FIRST_GSI + (u32::from(device) + u32::from(pin)) % u32::from(PIRQS)
}

/// The ISA interrupt that it arrives at, by [`ROUTES`].
pub fn intx_irq(device: u8, pin: u8) -> u8 {
    ROUTES[pirq(device, pin)]
}

/// The number of the PIRQ line that it is wired to, as on QEMU's board.
fn pirq(device: u8, pin: u8) -> usize {
    (usize::from(device) + usize::from(pin) + 3) % usize::from(PIRQS)
}

/// The four lines, and what the PIIX3 makes of them.
pub struct Pirqs([Mutex<Pirq>; PIRQS as usize]);

struct Pirq {
    /// Pins that hold it.
    holders: u32,
    route: Option<u8>,
    /// Its connection to each ISA interrupt.
    lines: Vec<Arc<dyn IrqLine>>,
}

impl Pirq {
    fn drive(&self) {
        if let Some(irq) = self.route {
            self.lines[usize::from(irq)].set(self.holders > 0);
        }
    }
}

impl Pirqs {
    /// Lines that lead nowhere. `line` makes connections to ISA interrupts, 0 to 15.
    pub fn new(line: impl Fn(u32) -> Arc<dyn IrqLine>) -> Arc<Self> {
        Arc::new(Self([(); PIRQS as usize].map(|()| {
            Mutex::new(Pirq {
                holders: 0,
                route: None,
                lines: (0..16).map(&line).collect(),
            })
        })))
    }

    /// What the PIIX3's route control register of line `number` says (82371SB data sheet, 2.3.8).
    pub fn route(&self, number: usize, register: u8) {
        const NOT_ROUTED: u8 = 1 << 7;
        const IRQ: u8 = 0xf;
        const RESERVED: [u8; 5] = [0, 1, 2, 8, 13];
        let irq = register & IRQ;
        let is_routed = register & NOT_ROUTED == 0 && !RESERVED.contains(&irq);
        let route = is_routed.then_some(irq);
        let mut pirq = self.lock(number);
        if pirq.route != route {
            if let Some(before) = pirq.route {
                pirq.lines[usize::from(before)].set(false);
            }
            pirq.route = route;
            pirq.drive();
        }
    }

    /// Pin `pin` of device `device`, which is wired to `gsi` as well.
    pub fn pin(self: &Arc<Self>, device: u8, pin: u8, gsi: Arc<dyn IrqLine>) -> Arc<dyn IrqLine> {
        Arc::new(Pin {
            gsi,
            pirqs: Arc::clone(self),
            number: pirq(device, pin),
            high: Mutex::new(false),
        })
    }

    fn lock(&self, number: usize) -> MutexGuard<'_, Pirq> {
        self.0[number]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The wires of one device's pin.
struct Pin {
    gsi: Arc<dyn IrqLine>,
    pirqs: Arc<Pirqs>,
    number: usize,
    high: Mutex<bool>,
}

impl IrqLine for Pin {
    fn set(&self, high: bool) {
        let mut before = self.high.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *before, high) == high {
            return;
        }
        self.gsi.set(high);
        let mut pirq = self.pirqs.lock(self.number);
        if high {
            pirq.holders += 1;
        } else {
            pirq.holders -= 1;
        }
        pirq.drive();
    }
}

#[cfg(test)]
mod tests;
