use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use super::*;
use crate::legacy::doubles::{FakeLine, counted_signal};

const GIB: u64 = 1 << 30;
/// 2024-02-29T23:59:58Z, a Thursday.
const LEAP_DAY: u64 = 1_709_251_198;

/// A clock of which the test sets the milliseconds.
fn rtc(millis: u64) -> (Rtc, Arc<AtomicU64>) {
    let (rtc, time, ..) = wired(millis);
    (rtc, time)
}

/// The same, with its interrupt line and the number of its alarms.
fn wired(millis: u64) -> (Rtc, Arc<AtomicU64>, Arc<FakeLine>, Arc<AtomicUsize>) {
    let line = Arc::new(FakeLine::default());
    let (alarm, alarms) = counted_signal();
    let time = Arc::new(AtomicU64::new(millis));
    let clock = time.clone();
    let size = MemorySize {
        below_4g: 3 * GIB,
        above_4g: 5 * GIB,
    };
    let rtc = Rtc::with_clock(
        size,
        line.clone(),
        alarm,
        Box::new(move || Duration::from_millis(clock.load(Ordering::SeqCst))),
    );
    (rtc.unwrap(), time, line, alarms)
}

fn get(rtc: &mut Rtc, register: u8) -> u8 {
    let mut value = [0];
    rtc.write(0, &[register]);
    rtc.read(1, &mut value);
    value[0]
}

fn set(rtc: &mut Rtc, register: u8, value: u8) {
    rtc.write(0, &[register]);
    rtc.write(1, &[value]);
}

fn date(rtc: &mut Rtc) -> [u8; 8] {
    [CENTURY, YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS, WEEKDAY].map(|r| get(rtc, r))
}

#[test]
fn the_time_is_bcd_in_utc_and_passes_a_leap_day() {
    let (mut rtc, time) = rtc(LEAP_DAY * 1000);
    assert_eq!(
        date(&mut rtc),
        [0x20, 0x24, 0x02, 0x29, 0x23, 0x59, 0x58, 5]
    );
    time.fetch_add(2000, Ordering::SeqCst);
    assert_eq!(
        date(&mut rtc),
        [0x20, 0x24, 0x03, 0x01, 0x00, 0x00, 0x00, 6]
    );
}

#[test]
fn binary_and_twelve_hour_modes() {
    let (mut rtc, time) = rtc(LEAP_DAY * 1000);
    set(&mut rtc, STATUS_B, B_BINARY);
    assert_eq!(get(&mut rtc, HOURS), 11 | PM);
    assert_eq!(get(&mut rtc, MINUTES), 59);
    time.fetch_add(2000, Ordering::SeqCst);
    assert_eq!(get(&mut rtc, HOURS), 12, "midnight is 12 AM");
}

#[test]
fn update_in_progress_shows_only_just_before_a_second_ends() {
    let (mut rtc, time) = rtc(LEAP_DAY * 1000);
    assert_eq!(get(&mut rtc, STATUS_A), A_DEFAULT);
    time.store(LEAP_DAY * 1000 + 999, Ordering::SeqCst);
    assert_eq!(get(&mut rtc, STATUS_A), A_DEFAULT, "1 ms is early");
    let (mut late, _) = self::rtc(0);
    late.clock = Box::new(|| Duration::from_micros(999_800));
    assert_eq!(get(&mut late, STATUS_A), A_DEFAULT | A_UPDATE_IN_PROGRESS);
}

#[test]
fn a_time_that_the_guest_sets_goes_on_from_there() {
    let (mut rtc, time) = rtc(LEAP_DAY * 1000);
    set(&mut rtc, STATUS_B, B_SET | B_24_HOURS);
    let fields = [
        (CENTURY, 0x19),
        (YEAR, 0x99),
        (MONTH, 0x12),
        (DAY, 0x31),
        (HOURS, 0x23),
        (MINUTES, 0x59),
        (SECONDS, 0x59),
    ];
    for (register, value) in fields {
        set(&mut rtc, register, value);
    }
    time.fetch_add(10_000, Ordering::SeqCst);
    assert_eq!(get(&mut rtc, SECONDS), 0x59, "stopped");
    set(&mut rtc, STATUS_B, B_24_HOURS);
    time.fetch_add(1000, Ordering::SeqCst);
    assert_eq!(date(&mut rtc), [0x20, 0x00, 0x01, 0x01, 0, 0, 0, 7]);
}

#[test]
fn status_is_valid_and_events_cannot_be_written() {
    let (mut rtc, _) = rtc(0);
    set(&mut rtc, STATUS_D, 0);
    assert_eq!(get(&mut rtc, STATUS_D), D_VALID);
    set(&mut rtc, STATUS_C, 0xff);
    assert_eq!(get(&mut rtc, STATUS_C), 0);
}

#[test]
fn memory_fields_and_scratch() {
    let (mut rtc, _) = rtc(0);
    let word = |rtc: &mut Rtc, r| u16::from_le_bytes([get(rtc, r), get(rtc, r + 1)]);
    assert_eq!(word(&mut rtc, 0x15), 640);
    assert_eq!(word(&mut rtc, 0x17), 0xffff, "more than the field holds");
    assert_eq!(word(&mut rtc, 0x34), ((3 * GIB - (16 << 20)) >> 16) as u16);
    assert_eq!(word(&mut rtc, 0x5b), ((5 * GIB) >> 16) as u16);
    set(&mut rtc, 0x40, 0xa5);
    assert_eq!(
        get(&mut rtc, 0x40 | 0x80),
        0xa5,
        "bit 7 of the index masks the NMI"
    );
    rtc.reset();
    assert_eq!(get(&mut rtc, 0x40), 0xa5);
}

#[test]
fn nonsense_in_every_field_is_survived() {
    for value in 0..=255 {
        let (mut rtc, _) = rtc(LEAP_DAY * 1000);
        for register in 0..128 {
            set(&mut rtc, register, value);
        }
        for register in 0..128 {
            get(&mut rtc, register);
        }
    }
}

#[test]
fn dates_go_both_ways() {
    // Every 7 hours and a bit over four centuries.
    for seconds in (-2_208_988_800..10_413_792_000).step_by(9_000_011) {
        assert_eq!(DateTime::from_unix(seconds).to_unix(), seconds);
    }
}

#[test]
fn the_end_of_an_update_interrupts_until_it_has_been_seen() {
    let (mut rtc, time, line, _) = wired(LEAP_DAY * 1000 + 900);
    get(&mut rtc, STATUS_C);
    set(&mut rtc, STATUS_B, B_24_HOURS | Event::UPDATED.bits());
    rtc.wake();
    assert!(!line.is_high());
    time.fetch_add(100, Ordering::SeqCst);
    rtc.wake();
    assert!(line.is_high());
    let events = get(&mut rtc, STATUS_C);
    assert_eq!(events & 0b1001_0000, 0b1001_0000);
    assert!(!line.is_high());
    assert_eq!(get(&mut rtc, STATUS_C), 0);
    time.fetch_add(1000, Ordering::SeqCst);
    rtc.wake();
    assert_eq!(line.edges(), 2);
}

#[test]
fn the_alarm_interrupts_in_the_form_that_the_time_has() {
    for (b, hour) in [(B_24_HOURS, 0x23), (0, 0x80 | 0x11), (B_BINARY, 0x80 | 11)] {
        let (mut rtc, time, line, alarms) = wired(LEAP_DAY * 1000);
        set(&mut rtc, STATUS_B, b | Event::ALARM.bits());
        for (register, value) in [(HOURS_ALARM, hour), (MINUTES_ALARM, 0xff)] {
            set(&mut rtc, register, value);
        }
        set(
            &mut rtc,
            SECONDS_ALARM,
            if b == B_BINARY { 59 } else { 0x59 },
        );
        time.fetch_add(999, Ordering::SeqCst);
        rtc.wake();
        assert!(!line.is_high());
        time.fetch_add(1, Ordering::SeqCst);
        rtc.wake();
        assert!(line.is_high(), "{b:#x}");
        assert_eq!(alarms.load(Ordering::SeqCst), 1);
        assert_eq!(get(&mut rtc, STATUS_C) & 0b1010_0000, 0b1010_0000);
    }
}

#[test]
fn an_alarm_that_is_only_looked_for_wakes_nobody() {
    let (mut rtc, time, line, alarms) = wired(LEAP_DAY * 1000);
    set(&mut rtc, HOURS_ALARM, 0xc0);
    set(&mut rtc, MINUTES_ALARM, 0xc0);
    set(&mut rtc, SECONDS_ALARM, 0xc0);
    time.fetch_add(1000, Ordering::SeqCst);
    assert_eq!(get(&mut rtc, STATUS_C) & 0b1010_0000, 0b0010_0000);
    assert!(!line.is_high());
    assert_eq!(alarms.load(Ordering::SeqCst), 0);
}

#[test]
fn while_the_time_is_set_no_update_ends() {
    let (mut rtc, time, line, _) = wired(LEAP_DAY * 1000);
    set(
        &mut rtc,
        STATUS_B,
        B_24_HOURS | B_SET | Event::UPDATED.bits(),
    );
    assert_eq!(get(&mut rtc, STATUS_B), B_24_HOURS | B_SET);
    time.fetch_add(1500, Ordering::SeqCst);
    rtc.wake();
    assert_eq!(get(&mut rtc, STATUS_C) & Event::UPDATED.bits(), 0);
    assert!(!line.is_high());
}

#[test]
fn a_reset_takes_interrupts_back() {
    let (mut rtc, time, line, _) = wired(LEAP_DAY * 1000);
    set(&mut rtc, STATUS_B, B_24_HOURS | Event::all().bits());
    time.fetch_add(1000, Ordering::SeqCst);
    rtc.wake();
    assert!(line.is_high());
    rtc.reset();
    assert!(!line.is_high());
    assert_eq!(get(&mut rtc, STATUS_B), B_24_HOURS);
    assert_eq!(get(&mut rtc, STATUS_C), 0);
}

#[test]
fn a_real_timer_wakes_the_clock() {
    use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};

    let line = Arc::new(FakeLine::default());
    let size = MemorySize {
        below_4g: GIB,
        above_4g: 0,
    };
    let rtc = Rtc::new(size, line.clone(), counted_signal().0).unwrap();
    let rtc = Arc::new(std::sync::Mutex::new(rtc));
    let mut events = EventManager::<Box<dyn MutEventSubscriber>>::new().unwrap();
    events.add_subscriber(Box::new(RtcTimer::of(&rtc)));
    {
        let mut rtc = rtc.lock().unwrap();
        get(&mut rtc, STATUS_C);
        set(&mut rtc, STATUS_B, B_24_HOURS | Event::PERIOD.bits());
    }
    while !line.is_high() {
        events.run().unwrap();
    }
    let events_seen = get(&mut rtc.lock().unwrap(), STATUS_C);
    assert_eq!(events_seen & 0b1100_0000, 0b1100_0000);
}
