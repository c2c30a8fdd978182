use std::sync::atomic::Ordering;

use super::*;
use crate::legacy::doubles::{FakeLine, counted_signal};

struct Rig {
    slots: SlotPorts,
    events: EventPorts,
    registers: Arc<Mutex<HotPlug>>,
    line: Arc<FakeLine>,
    ejections: Arc<std::sync::atomic::AtomicUsize>,
}

fn rig() -> Rig {
    let line = Arc::new(FakeLine::default());
    let (eject, ejections) = counted_signal();
    let registers = Arc::new(Mutex::new(HotPlug::new(line.clone(), eject)));
    Rig {
        slots: SlotPorts(registers.clone()),
        events: EventPorts(registers.clone()),
        registers,
        line,
        ejections,
    }
}

impl Rig {
    fn read(&mut self, register: u64) -> u32 {
        let mut value = [0; 4];
        self.slots.read(register, &mut value);
        u32::from_le_bytes(value)
    }

    fn eject(&mut self, slots: u32) {
        self.slots.write(EJECT, &slots.to_le_bytes());
    }

    fn enable(&mut self) {
        self.events.write(2, &[0x02]);
    }
}

#[test]
fn a_guest_that_listens_is_told_of_a_device_once() {
    let mut rig = rig();
    rig.registers.lock().unwrap().plug(5);
    assert!(!rig.line.is_high(), "it does not listen");
    rig.enable();
    assert!(rig.line.is_high());
    let mut events = [0; 4];
    rig.events.read(0, &mut events);
    assert_eq!(events, [2, 0, 2, 0]);
    rig.events.write(0, &[0x02]);
    assert!(!rig.line.is_high());
    assert_eq!((rig.read(UP), rig.read(DOWN)), (1 << 5, 0));
    assert_eq!((rig.read(UP), rig.read(REMOVABLE)), (0, 1 << 5));
}

#[test]
fn what_a_guest_lets_go_of_is_ejected() {
    let mut rig = rig();
    rig.registers.lock().unwrap().plug(31);
    rig.enable();
    rig.events.write(0, &[0x02]);
    assert!(rig.registers.lock().unwrap().ask_to_eject(31));
    assert!(rig.line.is_high());
    assert!(!rig.registers.lock().unwrap().ask_to_eject(31), "again");
    assert_eq!((rig.read(DOWN), rig.read(DOWN)), (1 << 31, 1 << 31));
    rig.eject(1 << 31);
    assert_eq!(rig.ejections.load(Ordering::SeqCst), 1);
    assert_eq!((rig.read(DOWN), rig.read(REMOVABLE)), (0, 0));
    let mut registers = rig.registers.lock().unwrap();
    assert_eq!(registers.take_ejected(), 1 << 31);
    assert_eq!(registers.take_ejected(), 0);
}

#[test]
fn nothing_else_can_be_ejected() {
    let mut rig = rig();
    rig.eject(u32::MAX);
    rig.registers.lock().unwrap().plug(3);
    rig.eject(!(1 << 3));
    for (offset, data) in [
        (UP, &[0xff; 4][..]),
        (9, &[0xff]),
        (EJECT, &[]),
        (19, &[1; 8]),
    ] {
        rig.slots.write(offset, data);
    }
    assert_eq!(rig.ejections.load(Ordering::SeqCst), 0);
    assert_eq!(rig.registers.lock().unwrap().take_ejected(), 0);
    // A guest may let go of what it has not been asked for.
    rig.eject(u32::MAX);
    assert_eq!(rig.registers.lock().unwrap().take_ejected(), 1 << 3);
    let mut behind = [0; 8];
    rig.slots.read(16, &mut behind);
    assert_eq!(behind, [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
}

#[test]
fn at_a_reset_goes_what_was_to_go() {
    let mut rig = rig();
    rig.enable();
    {
        let mut registers = rig.registers.lock().unwrap();
        registers.plug(4);
        registers.plug(6);
        registers.ask_to_eject(4);
        registers.reset();
        assert_eq!(registers.take_ejected(), 1 << 4);
    }
    assert!(!rig.line.is_high());
    assert_eq!(
        (rig.read(UP), rig.read(DOWN), rig.read(REMOVABLE)),
        (0, 0, 1 << 6)
    );
}
