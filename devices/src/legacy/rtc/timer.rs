//! What wakes the clock when it has something to interrupt for.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

use super::Rtc;

/// A timer of the host that goes off once.
#[derive(Clone)]
pub(super) struct Timer(Arc<OwnedFd>);

impl Timer {
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        Ok(Self(Arc::new(timerfd_create(
            TimerfdClockId::Monotonic,
            flags,
        )?)))
    }

    /// Lets it go off after so long, or not at all.
    pub fn set(&self, after: Option<Duration>) {
        let value = after.map_or_else(Timespec::default, |after| Timespec {
            tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            // Zero would mean never.
            tv_nsec: i64::from(after.subsec_nanos()).max(1),
        });
        let value = Itimerspec {
            it_interval: Timespec::default(),
            it_value: value,
        };
        if let Err(error) = timerfd_settime(&*self.0, TimerfdTimerFlags::empty(), &value) {
            tracing::error!(%error, "the clock's timer cannot be set");
        }
    }
}

/// Lets the clock interrupt, on the device thread.
pub struct RtcTimer {
    pub(super) rtc: Arc<Mutex<Rtc>>,
    pub(super) timer: Timer,
}

impl RtcTimer {
    /// The timer of `rtc`.
    pub fn of(rtc: &Arc<Mutex<Rtc>>) -> Self {
        let timer = rtc
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .timer
            .clone();
        Self {
            rtc: Arc::clone(rtc),
            timer,
        }
    }
}

impl MutEventSubscriber for RtcTimer {
    fn process(&mut self, _: Events, _: &mut EventOps) {
        // Setting it again, or stopping it, takes what can be read from it away.
        self.rtc
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .wake();
    }

    fn init(&mut self, ops: &mut EventOps) {
        let events = Events::new_raw(self.timer.0.as_raw_fd(), EventSet::IN);
        if let Err(error) = ops.add(events) {
            tracing::error!(?error, "the clock does not interrupt");
        }
    }
}
