use proptest::prelude::*;

use super::rig::*;

const MASTER_ERROR: u8 = 0x02;

#[test]
fn memory_that_is_not_there_is_an_error() {
    let outside = MEMORY as u32;
    // The data, the end of the data, and the table itself.
    for (table, entries) in [
        (TABLE, &[(outside, 512)][..]),
        (TABLE, &[(outside - 256, 512)]),
        (TABLE, &[(0x2_0000, 256), (u32::MAX, 256)]),
        (outside, &[]),
        (u32::MAX, &[]),
    ] {
        let mut rig = Rig::new();
        rig.table(entries);
        rig.set_engine(4, &table.to_le_bytes());
        rig.address28(1, 1);
        rig.dma(0xc8);
        rig.failed(ABORTED);
        assert_eq!(rig.engine(2) & 7, MASTER_ERROR | 4);
        assert!(rig.disk.ops().is_empty());
    }
}

#[test]
fn a_table_without_end_is_left_after_64_kib() {
    let mut rig = Rig::new();
    // Every descriptor of the 64 KiB around the table: two bytes, not the last one.
    for address in (0..0x1_0000).step_by(8) {
        rig.fill(address, &(2u64 << 32 | 0x2_0000).to_le_bytes());
    }
    rig.set_engine(4, &0xff00u32.to_le_bytes());
    rig.address48(0, 64);
    rig.dma(0x25);
    assert_eq!(rig.engine(2) & 7, 0, "too short: 16 KiB of 32");
    assert_eq!(rig.status(), READY | DATA_REQUEST);
    // It does wrap: half of that is enough.
    rig.set_control(4);
    rig.set_control(0);
    rig.stop_engine();
    rig.address48(0, 16);
    rig.dma(0x25);
    rig.succeeded();
}

#[test]
fn a_table_may_lie_across_the_end_of_64_kib() {
    let mut rig = Rig::new();
    rig.fill(0xfffc, &0x2_0000u32.to_le_bytes());
    rig.fill(0, &(1u32 << 31 | 512).to_le_bytes());
    rig.set_engine(4, &0xfffcu32.to_le_bytes());
    rig.address28(4, 1);
    rig.dma(0xc8);
    rig.succeeded();
    assert_eq!(rig.peek(0x2_0000, 512), rig.disk.sectors(4, 1));
}

#[test]
fn a_guest_may_describe_the_table_as_the_target() {
    let mut rig = Rig::new();
    rig.table(&[(TABLE, 512)]);
    rig.address28(4, 1);
    rig.dma(0xc8);
    rig.succeeded();
    assert_eq!(rig.peek(TABLE.into(), 512), rig.disk.sectors(4, 1));
}

/// What a guest can do to the controller.
#[derive(Debug, Clone)]
enum Action {
    Read(u16, usize),
    Write(u16, Vec<u8>),
    Engine(u64, Vec<u8>),
    Config(usize, Vec<u8>),
    Command(u8),
    Table(u32, u32),
    Run,
    Hold(bool),
    Stop(bool),
    Reset,
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    width().prop_flat_map(|len| prop::collection::vec(any::<u8>(), len))
}

fn width() -> impl Strategy<Value = usize> {
    prop_oneof![Just(1usize), Just(2), Just(4)]
}

fn action() -> impl Strategy<Value = Action> {
    let ports = prop_oneof![0x1f0u16..0x1f8, 0x170u16..0x178, Just(0x3f6), Just(0x376)];
    let known = prop::sample::select(vec![
        0x06, 0x20, 0x24, 0x25, 0x29, 0x2f, 0x30, 0x34, 0x35, 0x39, 0x40, 0x90, 0x91, 0xb0, 0xc4,
        0xc5, 0xc6, 0xc8, 0xca, 0xe7, 0xec, 0xef,
    ]);
    prop_oneof![
        4 => (ports.clone(), width()).prop_map(|(p, n)| Action::Read(p, n)),
        6 => (ports, bytes()).prop_map(|(p, data)| Action::Write(p, data)),
        4 => (0u64..16, bytes()).prop_map(|(o, data)| Action::Engine(o, data)),
        1 => (0usize..64, bytes()).prop_map(|(o, data)| Action::Config(4 * o, data)),
        6 => known.prop_map(Action::Command),
        3 => (0u32..MEMORY as u32 + 4096, any::<u32>()).prop_map(|(a, f)| Action::Table(a, f)),
        4 => Just(Action::Run),
        1 => any::<bool>().prop_map(Action::Hold),
        1 => any::<bool>().prop_map(Action::Stop),
        1 => Just(Action::Reset),
    ]
}

fn apply(rig: &mut Rig, action: Action) {
    match action {
        Action::Read(port, len) => rig.ports.read(port.into(), &mut vec![0; len]),
        Action::Write(port, data) => rig.ports.write(port.into(), &data),
        Action::Engine(offset, data) => {
            rig.function.lock().unwrap().write_bar(4, offset, &data);
        }
        Action::Config(offset, data) => {
            rig.function.lock().unwrap().write_config(offset, &data);
        }
        Action::Command(code) => rig.set(7, code),
        Action::Table(address, flags) => {
            rig.descriptor(0, address, flags);
            rig.set_engine(4, &TABLE.to_le_bytes());
        }
        Action::Run => rig.run(),
        Action::Hold(true) => *rig.disk.hold.borrow_mut() = true,
        Action::Hold(false) => rig.disk.release(),
        Action::Stop(true) => rig.worker.borrow_mut().stop(),
        Action::Stop(false) => rig.worker.borrow_mut().cont(),
        Action::Reset => rig.function.lock().unwrap().reset(),
    }
}

/// What a guest can do to a CD drive, besides.
fn cdrom_action() -> impl Strategy<Value = Vec<Action>> {
    let code = prop::sample::select(vec![
        0x00, 0x03, 0x12, 0x1a, 0x1b, 0x1e, 0x25, 0x28, 0x2b, 0x43, 0x46, 0x4a, 0x51, 0x5a, 0xa8,
        0xbb, 0xbd,
    ]);
    let near = prop_oneof![Just(0u8), Just(1), Just(2), any::<u8>()];
    let packet = (code, prop::collection::vec(near, 11));
    let packet = (packet, 0u8..3, any::<u16>(), 0u8..40).prop_map(
        |((code, rest), features, limit, reads)| {
            let [low, high] = limit.to_le_bytes();
            let set = |port, value| Action::Write(port, vec![value]);
            let mut all = vec![set(0x1f6, 0xa0), set(0x1f1, features)];
            all.extend([set(0x1f4, low), set(0x1f5, high), Action::Command(0xa0)]);
            let bytes: Vec<u8> = std::iter::once(code).chain(rest).collect();
            all.extend(
                bytes
                    .chunks(2)
                    .map(|word| Action::Write(0x1f0, word.to_vec())),
            );
            all.push(Action::Run);
            all.extend((0..reads).map(|_| Action::Read(0x1f0, 4)));
            all
        },
    );
    let code = prop::sample::select(vec![0x08, 0xa0, 0xa1, 0xec, 0xef, 0x90, 0x20]);
    prop_oneof![
        5 => packet,
        1 => code.prop_map(|code| vec![Action::Command(code)]),
        4 => action().prop_map(|action| vec![action]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever a guest does: no panic, the worker comes to rest, and after a reset the drive
    /// works.
    #[test]
    fn any_accesses_are_survived(actions in prop::collection::vec(action(), 1..120)) {
        let mut rig = Rig::new();
        for action in actions {
            apply(&mut rig, action);
        }
        rig.worker.borrow_mut().cont();
        rig.disk.release();
        rig.run();
        prop_assert!(rig.worker.borrow().is_idle());
        rig.function.lock().unwrap().reset();
        rig.enable_bus_master();
        prop_assert_eq!(rig.status(), READY);
        rig.table(&[(0x2_0000, 512)]);
        rig.address28(7, 1);
        rig.dma(0xc8);
        rig.succeeded();
        prop_assert_eq!(rig.peek(0x2_0000, 512), rig.disk.sectors(7, 1));
    }

    /// The same of a CD drive with a disk behind it on the cable. Its disc ends within a block.
    #[test]
    fn a_cd_drive_survives_any_accesses(
        actions in prop::collection::vec(cdrom_action(), 1..60),
    ) {
        let mut rig = Rig::cdrom(4 * 50 + 1);
        for action in actions.into_iter().flatten() {
            apply(&mut rig, action);
        }
        rig.worker.borrow_mut().cont();
        rig.disk.release();
        rig.run();
        prop_assert!(rig.worker.borrow().is_idle());
        rig.function.lock().unwrap().reset();
        rig.enable_bus_master();
        prop_assert_eq!(rig.status(), 0);
        // Whatever state the tray was left in: close it, and take note.
        rig.packet(0, 0, &[0x1b, 0, 0, 0, 3], 2);
        rig.packet_succeeded();
        rig.packet(0, 0, &[0x00], 2);
        rig.get(7);
        let (_, reply) = rig.packet_in(2048, &[0x28, 0, 0, 0, 0, 3, 0, 0, 2]);
        prop_assert_eq!(reply, rig.disk.sectors(12, 8));
    }
}
