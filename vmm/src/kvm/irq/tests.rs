use super::*;

/// Targets of a GSI as (chip, pin).
fn targets(gsi: u32) -> Vec<(u32, u32)> {
    let entries = wires();
    let of_gsi = entries.iter().filter(|entry| entry.gsi == gsi);
    of_gsi.map(target).collect()
}

#[allow(unsafe_code)] // Reads the union that the code under test has filled.
fn target(entry: &kvm_irq_routing_entry) -> (u32, u32) {
    assert_eq!(entry.type_, KVM_IRQ_ROUTING_IRQCHIP);
    // SAFETY: the type says which field is in use.
    let irqchip = unsafe { entry.u.irqchip };
    (irqchip.irqchip, irqchip.pin)
}

#[test]
fn the_timer_arrives_at_pin_two() {
    assert_eq!(
        targets(0),
        [(KVM_IRQCHIP_PIC_MASTER, 0), (KVM_IRQCHIP_IOAPIC, 2)]
    );
    assert_eq!(targets(2), []);
}

#[test]
fn isa_interrupts_reach_both_kinds_of_controller() {
    assert_eq!(
        targets(14),
        [(KVM_IRQCHIP_PIC_SLAVE, 6), (KVM_IRQCHIP_IOAPIC, 14)]
    );
    assert_eq!(targets(20), [(KVM_IRQCHIP_IOAPIC, 20)]);
}

#[test]
fn no_pin_has_two_sources() {
    let mut all: Vec<_> = wires().iter().map(target).collect();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count);
}

#[test]
fn a_shared_wire_is_high_while_anyone_holds_it() {
    let wire = Wire::default();
    let (one, other) = (AtomicBool::new(false), AtomicBool::new(false));
    let mut levels = Vec::new();
    for (device, high) in [
        (&one, true),
        (&one, true),
        (&other, true),
        (&one, false),
        (&one, false),
        (&other, false),
        (&one, true),
    ] {
        wire.set(device, high, |level| levels.push(level));
    }
    // Nothing is driven where a device repeats itself.
    assert_eq!(levels, [true, true, true, false, true]);
}
