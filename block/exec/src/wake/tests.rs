use std::{sync::Arc, thread};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::WakeFd;

fn is_readable(wake: &WakeFd) -> bool {
    let mut fds = [PollFd::new(wake, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
}

#[test]
fn wakes_count_once_until_they_are_taken() {
    let wake = WakeFd::new().unwrap();
    assert!(!is_readable(&wake));
    assert!(!wake.take());
    for _ in 0..2 {
        wake.wake();
        wake.wake();
        assert!(is_readable(&wake));
        assert!(wake.take());
        assert!(!is_readable(&wake));
        assert!(!wake.take());
    }
}

#[test]
fn no_wake_is_lost_between_threads() {
    const ROUNDS: u32 = 20_000;
    let wake = Arc::new(WakeFd::new().unwrap());
    let (sender, receiver) = std::sync::mpsc::channel();
    let other = wake.clone();
    let thread = thread::spawn(move || {
        for number in 0..ROUNDS {
            sender.send(number).unwrap();
            other.wake();
        }
    });
    let mut received = 0;
    while received < ROUNDS {
        // Waits as an event loop does: a wake that got lost would make this wait for ever.
        poll(&mut [PollFd::new(&*wake, PollFlags::IN)], None).unwrap();
        wake.take();
        received += u32::try_from(receiver.try_iter().count()).unwrap();
    }
    thread.join().unwrap();
    wake.take();
    assert!(!is_readable(&wake));
}
