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

#[test]
fn the_kernel_gets_a_table_only_where_it_differs() {
    let message = |data| MsiMessage {
        address: 0xfee0_0000,
        data,
    };
    let mut messages = Messages::default();
    let mut tables = Vec::new();
    for (gsi, data) in [(24, 1), (24, 1), (25, 2), (24, 1), (25, 3), (25, 3)] {
        let apply = |routes: &BTreeMap<_, _>| {
            tables.push(routes.clone());
            Ok(())
        };
        messages.set(gsi, message(data), apply).unwrap();
    }
    let table = |routes: &[(u32, u32)]| {
        let routes = routes.iter().map(|&(gsi, data)| (gsi, message(data)));
        routes.collect::<BTreeMap<_, _>>()
    };
    let expected = [
        table(&[(24, 1)]),
        table(&[(24, 1), (25, 2)]),
        table(&[(24, 1), (25, 3)]),
    ];
    assert_eq!(tables, expected);
    // What the kernel has refused is not there, and is tried again.
    let mut tries = 0;
    for _ in 0..2 {
        let refuse = |_: &BTreeMap<_, _>| {
            tries += 1;
            Err(io::Error::other("no"))
        };
        messages.set(26, message(4), refuse).unwrap_err();
        messages
            .set(24, message(1), |_| panic!("unchanged"))
            .unwrap();
    }
    assert_eq!((tries, messages.routes.len()), (2, 2));
}

#[test]
fn numbers_of_devices_that_have_gone_are_given_out_again() {
    let mut messages = Messages::default();
    let all: Vec<_> = std::iter::from_fn(|| messages.take()).collect();
    assert_eq!(all.len(), MAX_VECTORS as usize);
    assert_eq!((all[0], messages.take()), (IOAPIC_PINS, None));
    let message = MsiMessage::default();
    messages.set(30, message, |_| Ok(())).unwrap();
    messages.give_back(30);
    assert!(messages.routes.is_empty());
    assert_eq!((messages.take(), messages.take()), (Some(30), None));
}
