use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::legacy::doubles::{FakeLine, counted_signal};

fn block() -> (PmBlock, Arc<FakeLine>, Arc<AtomicUsize>) {
    let line = Arc::new(FakeLine::default());
    let (power_off, count) = counted_signal();
    (PmBlock::new(line.clone(), power_off), line, count)
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
