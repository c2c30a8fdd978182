use super::*;
use crate::legacy::doubles::FakeLine;

/// PIRQs whose connections are one line for each ISA interrupt and PIRQ.
struct Rig {
    pirqs: Arc<Pirqs>,
    lines: Vec<Arc<FakeLine>>,
}

impl Rig {
    fn new() -> Self {
        let made: Mutex<Vec<Arc<FakeLine>>> = Mutex::default();
        let pirqs = Pirqs::new(|_| {
            let line = Arc::new(FakeLine::default());
            made.lock().unwrap().push(line.clone());
            line
        });
        let lines = made.into_inner().unwrap();
        for (number, irq) in ROUTES.into_iter().enumerate() {
            pirqs.route(number, irq);
        }
        Self { pirqs, lines }
    }

    /// ISA interrupts that are held by one of the PIRQs at least.
    fn high(&self) -> Vec<usize> {
        (0..16)
            .filter(|irq| (0..4).any(|pirq| self.lines[pirq * 16 + irq].is_high()))
            .collect()
    }

    fn pin(&self, device: u8, pin: u8) -> (Arc<dyn IrqLine>, Arc<FakeLine>) {
        let gsi = Arc::new(FakeLine::default());
        (self.pirqs.pin(device, pin, gsi.clone()), gsi)
    }
}

#[test]
fn pins_share_four_inputs_above_the_isa_ones() {
    assert_eq!(intx_gsi(0, 0), 16);
    assert_eq!(intx_gsi(1, 3), 16);
    let all = (0..32).flat_map(|d| (0..4).map(move |p| intx_gsi(d, p)));
    assert!(all.into_iter().all(|gsi| (16..20).contains(&gsi)));
}

#[test]
fn pins_are_wired_as_firmware_takes_them_to_be() {
    let irqs = [(1, 0), (1, 3), (2, 0), (2, 1), (3, 0), (4, 0), (255, 3)];
    let irqs = irqs.map(|(device, pin)| intx_irq(device, pin));
    assert_eq!(irqs, [10, 11, 10, 11, 11, 11, 10]);
}

#[test]
fn a_pin_holds_both_its_ways() {
    let rig = Rig::new();
    let ((one, gsi), (other, _)) = (rig.pin(2, 0), rig.pin(6, 0));
    one.set(true);
    one.set(true);
    other.set(true);
    assert!(gsi.is_high());
    assert_eq!(rig.high(), [10]);
    one.set(false);
    assert!(!gsi.is_high());
    assert_eq!(rig.high(), [10], "the other one holds it");
    other.set(false);
    assert_eq!(rig.high(), [0; 0]);
}

#[test]
fn a_line_that_is_held_follows_its_route() {
    let rig = Rig::new();
    let (pin, _) = rig.pin(1, 0);
    pin.set(true);
    rig.pirqs.route(0, 5);
    assert_eq!(rig.high(), [5]);
    rig.pirqs.route(0, 0x80 | 5);
    assert_eq!(rig.high(), [0; 0]);
    // The timer's, and the like.
    rig.pirqs.route(0, 0);
    assert_eq!(rig.high(), [0; 0]);
    pin.set(false);
    rig.pirqs.route(0, 9);
    pin.set(true);
    assert_eq!(rig.high(), [9]);
}
