use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::legacy::doubles::{FakeLine, counted_signal};

fn block() -> (PmBlock, Arc<FakeLine>, Arc<AtomicUsize>) {
    let line = Arc::new(FakeLine::default());
    let (power_off, count) = counted_signal();
    let signals = PowerSignals {
        power_off,
        suspend: Arc::new(|| panic!("it suspends")),
        wake_up: Arc::new(|| panic!("it wakes up")),
    };
    (PmBlock::new(line.clone(), signals), line, count)
}

/// A block, and how often it has said that the guest suspends, and that it is to wake up.
fn sleeper() -> (PmBlock, Arc<FakeLine>, [Arc<AtomicUsize>; 2]) {
    let line = Arc::new(FakeLine::default());
    let (suspend, suspended) = counted_signal();
    let (wake_up, woken) = counted_signal();
    let signals = PowerSignals {
        power_off: Arc::new(|| panic!("it powers off")),
        suspend,
        wake_up,
    };
    (
        PmBlock::new(line.clone(), signals),
        line,
        [suspended, woken],
    )
}

fn word(block: &mut PmBlock, offset: u64) -> u16 {
    let mut value = [0; 2];
    block.read(offset, &mut value);
    u16::from_le_bytes(value)
}

#[test]
fn the_power_button_holds_the_sci_until_its_status_is_cleared() {
    let (mut pm, line, _) = block();
    pm.press_power_button();
    assert!(!line.is_high(), "not enabled yet");
    pm.write(ENABLE, &0x0120u16.to_le_bytes());
    assert!(line.is_high());
    assert_eq!(word(&mut pm, STATUS), 0x0100);
    pm.write(STATUS, &0x0020u16.to_le_bytes());
    assert!(line.is_high(), "another event was cleared");
    pm.write(STATUS + 1, &[0x01]);
    assert!(!line.is_high());
    assert_eq!(word(&mut pm, ENABLE), 0x0120);
    pm.press_power_button();
    assert_eq!(line.edges(), 2);
    pm.reset();
    assert!(!line.is_high());
    assert_eq!(word(&mut pm, ENABLE), 0);
}

#[test]
fn only_sleep_enable_with_type_zero_powers_off() {
    let (mut pm, _, count) = block();
    pm.write(CONTROL, &0u16.to_le_bytes());
    assert_eq!(count.load(Ordering::SeqCst), 0);
    pm.write(CONTROL, &(5u16 << 10 | 1 << 13).to_le_bytes());
    assert_eq!(count.load(Ordering::SeqCst), 0);
    assert_eq!(
        word(&mut pm, CONTROL),
        5 << 10 | 1,
        "ACPI mode is always on"
    );
    // What SeaBIOS's APM writes.
    pm.write(CONTROL, &0x2000u16.to_le_bytes());
    assert_eq!(count.load(Ordering::SeqCst), 1);
    assert_eq!(word(&mut pm, CONTROL) & 1 << 13, 0, "reads as zero");
    // Writes elsewhere do not repeat it.
    pm.write(STATUS, &[0xff; 4]);
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[test]
fn status_and_enable_are_written_together_by_a_dword() {
    let (mut pm, line, _) = block();
    pm.press_power_button();
    pm.write(STATUS, &0x0100_0100u32.to_le_bytes());
    assert_eq!(word(&mut pm, STATUS), 0);
    assert_eq!(word(&mut pm, ENABLE), 0x0100);
    assert!(!line.is_high());
}

#[test]
fn the_timer_does_not_go_back() {
    let (mut pm, ..) = block();
    let mut read = || {
        let mut value = [0; 4];
        pm.read(TIMER, &mut value);
        u32::from_le_bytes(value)
    };
    let first = read();
    assert!(read() >= first);
}

#[test]
fn any_access_is_survived() {
    let (mut pm, ..) = block();
    for offset in 0..16 {
        for len in [1, 2, 4, 8] {
            pm.write(offset, &vec![0x5a; len]);
            pm.read(offset, &mut vec![0; len]);
        }
    }
}

#[test]
fn an_alarm_of_the_clock_raises_the_sci_where_the_guest_wants_it() {
    let (mut pm, line, _) = block();
    pm.clock_alarm();
    assert_eq!(word(&mut pm, STATUS), 0x0400);
    assert!(!line.is_high());
    pm.write(STATUS, &0x0400u16.to_le_bytes());
    pm.write(ENABLE, &0x0400u16.to_le_bytes());
    assert!(!line.is_high(), "the old alarm was cleared");
    pm.clock_alarm();
    assert!(line.is_high());
    pm.write(STATUS, &0x0400u16.to_le_bytes());
    assert!(!line.is_high());
}

const SUSPEND: u16 = 1 << 10 | 1 << 13;

#[test]
fn an_alarm_wakes_a_guest_that_has_asked_for_it() {
    let (mut pm, line, [suspended, woken]) = sleeper();
    let count = |signal: &AtomicUsize| signal.load(Ordering::SeqCst);
    pm.write(CONTROL, &SUSPEND.to_le_bytes());
    assert_eq!((count(&suspended), count(&woken)), (1, 0));
    pm.clock_alarm();
    assert_eq!(count(&woken), 0, "it has not asked");
    pm.write(ENABLE, &0x0400u16.to_le_bytes());
    pm.clock_alarm();
    assert_eq!(count(&woken), 1);
    assert!(pm.is_to_wake_up());

    pm.wake_up();
    assert!(!pm.is_asleep() && !pm.is_to_wake_up() && !line.is_high());
    assert_eq!(word(&mut pm, STATUS), 0x8400, "what woke it");
    assert_eq!(word(&mut pm, ENABLE), 0);
    pm.write(STATUS, &0x8400u16.to_le_bytes());
    assert_eq!(word(&mut pm, STATUS), 0);
    // Awake, it is interrupted and nothing else.
    pm.write(ENABLE, &0x0400u16.to_le_bytes());
    pm.clock_alarm();
    assert!(line.is_high());
    assert_eq!(count(&woken), 1);
}

#[test]
fn an_event_that_came_before_the_guest_slept_wakes_it_at_once() {
    let (mut pm, _, [suspended, woken]) = sleeper();
    pm.write(ENABLE, &0x0100u16.to_le_bytes());
    pm.press_power_button();
    assert_eq!(woken.load(Ordering::SeqCst), 0, "it is awake");
    pm.write(CONTROL, &SUSPEND.to_le_bytes());
    assert_eq!(suspended.load(Ordering::SeqCst), 1);
    assert_eq!(woken.load(Ordering::SeqCst), 1);
}

#[test]
fn who_is_asked_to_wake_up_finds_the_power_button_pressed() {
    let (mut pm, _, [_, woken]) = sleeper();
    pm.write(CONTROL, &SUSPEND.to_le_bytes());
    pm.ask_to_wake_up();
    assert_eq!(woken.load(Ordering::SeqCst), 0, "who asks carries it out");
    pm.wake_up();
    assert_eq!(word(&mut pm, STATUS), 0x8100);
}

#[test]
fn a_reset_ends_the_sleep() {
    let (mut pm, _, [_, woken]) = sleeper();
    pm.write(CONTROL, &SUSPEND.to_le_bytes());
    assert!(pm.is_asleep());
    pm.reset();
    assert!(!pm.is_asleep());
    pm.write(ENABLE, &0x0100u16.to_le_bytes());
    pm.press_power_button();
    assert_eq!(woken.load(Ordering::SeqCst), 0);
}
