//! How many errors a second are reported, and which.

use std::time::{Duration, Instant, SystemTime};

use strata_block::api::{Event, OnError};

use super::notice::Notice;
use super::throttle::Throttle;

const MILLISECOND: Duration = Duration::from_millis(1);

fn error(device: &str, reason: &str) -> Notice {
    Notice::Block(Event::IoError {
        device: device.to_owned(),
        node_name: "#block1".to_owned(),
        operation: "write".to_owned(),
        action: OnError::Report,
        nospace: true,
        reason: reason.to_owned(),
    })
}

/// Admits at a time that is given in milliseconds.
struct Clock(Throttle, Instant, SystemTime);

impl Clock {
    fn new() -> Clock {
        Clock(Throttle::default(), Instant::now(), SystemTime::now())
    }

    fn at(&self, milliseconds: u32) -> Instant {
        self.1 + MILLISECOND * milliseconds
    }

    fn admit(&mut self, milliseconds: u32, notice: Notice) -> Option<Notice> {
        let (now, time) = (self.at(milliseconds), self.2);
        self.0.admit(now, time, notice).map(|(_, notice)| notice)
    }

    fn release(&mut self, milliseconds: u32) -> Vec<Notice> {
        let now = self.at(milliseconds);
        self.0
            .release(now)
            .into_iter()
            .map(|(_, notice)| notice)
            .collect()
    }
}

#[test]
fn the_first_is_told_at_once_and_the_last_a_second_later() {
    let mut clock = Clock::new();
    assert_eq!(
        clock.admit(0, error("a", "first")),
        Some(error("a", "first"))
    );
    assert_eq!(clock.0.next_due(), None, "nothing is held");
    for round in 1..900 {
        assert_eq!(clock.admit(round, error("a", &round.to_string())), None);
    }
    assert_eq!(clock.0.next_due(), Some(clock.at(1000)));
    assert_eq!(clock.release(999), []);
    assert_eq!(clock.release(1000), [error("a", "899")]);
    assert_eq!(clock.release(1000), []);
    assert_eq!(clock.admit(1999, error("a", "held")), None);
    assert_eq!(clock.release(2000), [error("a", "held")]);
}

#[test]
fn after_a_pause_it_is_told_at_once() {
    let mut clock = Clock::new();
    clock.admit(0, error("a", "first"));
    assert_eq!(clock.release(5000), []);
    assert_eq!(
        clock.admit(5000, error("a", "next")),
        Some(error("a", "next"))
    );
}

#[test]
fn what_is_held_is_not_overtaken() {
    let mut clock = Clock::new();
    clock.admit(0, error("a", "first"));
    clock.admit(1, error("a", "held"));
    assert_eq!(clock.admit(1001, error("a", "last")), None);
    assert_eq!(clock.release(1001), [error("a", "last")]);
}

#[test]
fn disks_do_not_share_the_limit_and_other_news_has_none() {
    let mut clock = Clock::new();
    assert!(clock.admit(0, error("a", "x")).is_some());
    assert!(clock.admit(0, error("b", "x")).is_some());
    for _ in 0..10 {
        assert_eq!(clock.admit(0, Notice::Stop), Some(Notice::Stop));
    }
}
