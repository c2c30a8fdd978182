//! What the clock interrupts for: the end of an update (each second), a period, the alarm.
//!
//! Nothing runs for a flag that nobody waits for: [`Interrupts::catch_up`] finds out, from the time
//! that has passed since the last look, which events there were. Only while one is wanted and has
//! not come yet, [`Interrupts::next`] names a time to look again.

use std::time::Duration;

use bitflags::bitflags;

bitflags! {
    /// Events, as they lie in register C, and, where they are to interrupt, in register B.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Event: u8 {
        /// An update of the time has ended.
        const UPDATED = 1 << 4;
        /// The time is that of the alarm.
        const ALARM = 1 << 5;
        /// A period has passed.
        const PERIOD = 1 << 6;
    }
}

/// Register C: at least one of the events in it interrupts.
const INTERRUPT: u8 = 1 << 7;
/// Register A: which time base there is, and whether it is held in reset.
const DIVIDER: u8 = 0b0111_0000;
const DIVIDER_32_KHZ: u8 = 0b0010_0000;
const RATE: u8 = 0b0000_1111;
const BASE_HZ: u128 = 32_768;
const NANOS: u128 = 1_000_000_000;
const DAY: u32 = 86_400;

/// The time of day of the alarm; `None` means any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlarmTime {
    /// 0 to 23; others never come.
    pub hour: Option<u8>,
    /// 0 to 59; others never come.
    pub minute: Option<u8>,
    /// 0 to 59; others never come.
    pub second: Option<u8>,
}

impl AlarmTime {
    /// Seconds from `now`, a second of the day, to the next alarm, not counting now.
    fn after(self, now: u32) -> Option<u32> {
        let never = |field: Option<u8>, limit| field.is_some_and(|value| value >= limit);
        if never(self.hour, 24) || never(self.minute, 60) || never(self.second, 60) {
            return None;
        }
        let is =
            |field: Option<u8>, value: u32| field.is_none_or(|wanted| u32::from(wanted) == value);
        let mut at = now + 1;
        while at <= now + DAY {
            let of_day = at % DAY;
            if !is(self.hour, of_day / 3600) {
                at += 3600 - of_day % 3600;
            } else if !is(self.minute, of_day / 60 % 60) {
                at += 60 - of_day % 60;
            } else if !is(self.second, of_day % 60) {
                at += 1;
            } else {
                return Some(at - now);
            }
        }
        None
    }
}

/// What the clock's registers say, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Register A.
    pub a: u8,
    /// The time is not being updated: the guest is writing it.
    pub stopped: bool,
    /// Events that interrupt.
    pub enabled: Event,
    /// When the alarm goes off.
    pub alarm: AlarmTime,
    /// Seconds that the guest's time is ahead of the clock.
    pub ahead: i64,
}

impl Settings {
    /// Periods since the clock began, if there are any.
    fn periods(&self, at: Duration) -> Option<u128> {
        let period = self.period()?;
        Some(at.as_nanos() * BASE_HZ / NANOS / period)
    }

    /// Length of a period in units of the time base.
    fn period(&self) -> Option<u128> {
        match (self.a & DIVIDER, self.a & RATE) {
            (DIVIDER_32_KHZ, 0) => None,
            // These two are the same as 8 and 9.
            (DIVIDER_32_KHZ, rate @ 1..=2) => Some(1 << (rate + 6)),
            (DIVIDER_32_KHZ, rate) => Some(1 << (rate - 1)),
            _ => None,
        }
    }

    fn updates(&self) -> bool {
        !self.stopped && self.a & DIVIDER == DIVIDER_32_KHZ
    }

    /// Seconds from `at` to the next alarm.
    fn alarm_after(&self, at: Duration) -> Option<u32> {
        let seconds = i64::try_from(at.as_secs()).unwrap_or(0);
        let of_day = seconds.saturating_add(self.ahead).rem_euclid(DAY.into());
        self.alarm
            .after(u32::try_from(of_day).expect("a second of the day"))
    }
}

/// Register C, and until when it says what happened.
#[derive(Debug)]
pub struct Interrupts {
    flags: Event,
    seen: Duration,
}

impl Interrupts {
    /// Nothing has happened until `now`.
    pub fn new(now: Duration) -> Self {
        Self {
            flags: Event::empty(),
            seen: now,
        }
    }

    /// Adds what has happened up to `now`; what of it is new.
    pub fn catch_up(&mut self, now: Duration, settings: &Settings) -> Event {
        let before = std::mem::replace(&mut self.seen, now);
        // The host's clock may be set back.
        if now <= before {
            return Event::empty();
        }
        let mut happened = Event::empty();
        happened.set(
            Event::PERIOD,
            settings.periods(before) != settings.periods(now),
        );
        let seconds = now.as_secs() - before.as_secs();
        if settings.updates() && seconds > 0 {
            happened |= Event::UPDATED;
            let alarm = settings.alarm_after(before);
            happened.set(
                Event::ALARM,
                alarm.is_some_and(|after| u64::from(after) <= seconds),
            );
        }
        let new = happened - self.flags;
        self.flags |= happened;
        new
    }

    /// Whether the interrupt line is high.
    pub fn line(&self, enabled: Event) -> bool {
        self.flags.intersects(enabled)
    }

    /// The guest reads register C, which clears it.
    pub fn read(&mut self, enabled: Event) -> u8 {
        let line = if self.line(enabled) { INTERRUPT } else { 0 };
        std::mem::replace(&mut self.flags, Event::empty()).bits() | line
    }

    /// How long it takes, from the last look, until the line goes high; `None` if nothing that will
    /// come makes it.
    pub fn next(&self, settings: &Settings) -> Option<Duration> {
        if self.line(settings.enabled) {
            return None;
        }
        let wants = |event| settings.enabled.contains(event);
        let second = |after: u32| Duration::from_secs(self.seen.as_secs() + u64::from(after));
        let period = wants(Event::PERIOD).then(|| {
            let next = (settings.periods(self.seen)? + 1) * settings.period()?;
            let nanos = (next * NANOS).div_ceil(BASE_HZ);
            Some(Duration::from_nanos(u64::try_from(nanos).ok()?))
        });
        let updated = (wants(Event::UPDATED) && settings.updates()).then(|| second(1));
        let alarm = (wants(Event::ALARM) && settings.updates())
            .then(|| settings.alarm_after(self.seen).map(second));
        let times = [period.flatten(), updated, alarm.flatten()];
        let next = times.into_iter().flatten().min()?;
        Some(next.saturating_sub(self.seen))
    }
}

#[cfg(test)]
mod tests;
