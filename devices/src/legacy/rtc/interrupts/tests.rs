use super::*;

const ANY: AlarmTime = AlarmTime {
    hour: None,
    minute: None,
    second: None,
};

fn settings(a: u8, enabled: Event) -> Settings {
    Settings {
        a,
        stopped: false,
        enabled,
        alarm: ANY,
        ahead: 0,
    }
}

fn at(hour: u8, minute: u8, second: u8) -> AlarmTime {
    AlarmTime {
        hour: Some(hour),
        minute: Some(minute),
        second: Some(second),
    }
}

#[test]
fn an_alarm_is_found_wherever_in_the_day_it_lies() {
    for (alarm, now, after) in [
        (ANY, 0, Some(1)),
        (at(0, 0, 0), 0, Some(DAY)),
        (at(0, 0, 0), DAY - 1, Some(1)),
        (at(23, 59, 59), 0, Some(DAY - 1)),
        (at(12, 34, 56), 12 * 3600 + 34 * 60 + 55, Some(1)),
        (at(12, 34, 56), 12 * 3600 + 34 * 60 + 56, Some(DAY)),
        (
            AlarmTime {
                hour: None,
                ..at(0, 5, 7)
            },
            3600 + 5 * 60 + 8,
            Some(3599),
        ),
        (
            AlarmTime {
                second: None,
                ..at(1, 0, 0)
            },
            3659,
            Some(DAY - 59),
        ),
        (at(24, 0, 0), 0, None),
        (at(0, 60, 0), 0, None),
        (at(0, 0, 99), 0, None),
    ] {
        assert_eq!(alarm.after(now), after, "{alarm:?} {now}");
    }
}

#[test]
fn a_search_for_an_alarm_is_what_going_through_all_seconds_finds() {
    let alarms = [
        at(3, 7, 11),
        AlarmTime {
            minute: None,
            ..at(3, 0, 11)
        },
    ];
    for alarm in alarms {
        for now in (0..DAY).step_by(997) {
            let matches = |second: &u32| {
                let of_day = (now + second) % DAY;
                let is = |wanted: Option<u8>, value| wanted.is_none_or(|w| u32::from(w) == value);
                is(alarm.hour, of_day / 3600)
                    && is(alarm.minute, of_day / 60 % 60)
                    && is(alarm.second, of_day % 60)
            };
            assert_eq!(alarm.after(now), (1..=DAY).find(matches), "{alarm:?} {now}");
        }
    }
}

#[test]
fn rates_are_those_of_the_data_sheet() {
    let hertz = |rate: u8| {
        settings(0x20 | rate, Event::empty())
            .period()
            .map(|p| BASE_HZ / p)
    };
    let expected = [
        0, 256, 128, 8192, 4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2,
    ];
    for (rate, expected) in (0..).zip(expected) {
        assert_eq!(hertz(rate).unwrap_or(0), expected, "{rate}");
    }
    assert_eq!(
        settings(0x66, Event::empty()).period(),
        None,
        "divider in reset"
    );
}

#[test]
fn events_show_whether_they_interrupt_or_not_and_reading_clears_them() {
    let nothing = settings(0x26, Event::empty());
    let mut interrupts = Interrupts::new(Duration::from_millis(10_500));
    assert_eq!(
        interrupts.catch_up(Duration::from_millis(11_000), &nothing),
        Event::all()
    );
    assert!(!interrupts.line(nothing.enabled));
    assert_eq!(interrupts.next(&nothing), None);
    assert_eq!(interrupts.read(nothing.enabled), 0x70);
    assert_eq!(interrupts.read(nothing.enabled), 0);
}

#[test]
fn the_next_look_is_at_the_first_event_that_is_wanted() {
    let look = |enabled, alarm| {
        let interrupts = Interrupts::new(Duration::from_millis(10_500));
        interrupts.next(&Settings {
            alarm,
            ..settings(0x2f, enabled)
        })
    };
    let millis = |millis| Some(Duration::from_millis(millis));
    assert_eq!(look(Event::UPDATED, ANY), millis(500));
    assert_eq!(look(Event::ALARM, at(0, 0, 13)), millis(2500));
    assert_eq!(look(Event::PERIOD, ANY), millis(500), "twice a second");
    assert_eq!(look(Event::all(), at(0, 0, 13)), millis(500));
    assert_eq!(look(Event::empty(), ANY), None);
    assert_eq!(look(Event::ALARM, at(99, 0, 0)), None);
}

#[test]
fn a_line_that_is_high_needs_no_look() {
    let wanted = settings(0x26, Event::UPDATED);
    let mut interrupts = Interrupts::new(Duration::from_secs(1));
    interrupts.catch_up(Duration::from_secs(2), &wanted);
    assert!(interrupts.line(wanted.enabled));
    assert_eq!(interrupts.next(&wanted), None);
    assert_eq!(interrupts.read(wanted.enabled), 0xf0);
    assert_eq!(interrupts.next(&wanted), Some(Duration::from_secs(1)));
}

#[test]
fn a_clock_that_stands_or_is_set_back_has_no_events() {
    let wanted = settings(0x2f, Event::all());
    let mut interrupts = Interrupts::new(Duration::from_secs(100));
    assert_eq!(
        interrupts.catch_up(Duration::from_secs(50), &wanted),
        Event::empty()
    );
    let stopped = Settings {
        stopped: true,
        ..wanted
    };
    let now = Duration::from_millis(50_400);
    assert_eq!(interrupts.catch_up(now, &stopped), Event::empty());
    let later = Duration::from_secs(52);
    assert_eq!(
        interrupts.catch_up(later, &stopped),
        Event::PERIOD,
        "periods go on"
    );
}

#[test]
fn the_alarm_is_in_the_guest_s_time() {
    let ahead = Settings {
        alarm: at(0, 0, 0),
        ahead: -100,
        ..settings(0x26, Event::ALARM)
    };
    let mut interrupts = Interrupts::new(Duration::from_secs(90));
    assert_eq!(interrupts.next(&ahead), Some(Duration::from_secs(10)));
    assert!(
        !interrupts
            .catch_up(Duration::from_secs(99), &ahead)
            .contains(Event::ALARM)
    );
    assert!(
        interrupts
            .catch_up(Duration::from_secs(100), &ahead)
            .contains(Event::ALARM)
    );
}
