use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::*;

fn is_readable(inbox: &Inbox) -> bool {
    let mut fds = [PollFd::new(inbox, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
}

#[test]
fn messages_come_in_the_order_they_were_sent_and_wake() {
    let (post, mut inbox) = Inbox::new().unwrap();
    assert!(inbox.next().is_none());
    assert!(!is_readable(&inbox));
    post.guest(GuestEvent::PowerOff);
    post.send(Message::Leave);
    assert!(is_readable(&inbox));
    assert!(matches!(
        inbox.next(),
        Some(Message::Guest(GuestEvent::PowerOff))
    ));
    assert!(matches!(inbox.next(), Some(Message::Leave)));
    assert!(inbox.next().is_none());
    assert!(!is_readable(&inbox));
}

#[test]
fn a_guest_that_asks_without_end_fills_nothing() {
    let (post, mut inbox) = Inbox::new().unwrap();
    let ask = || {
        for _ in 0..1000 {
            post.guest(GuestEvent::Reset);
            post.guest(GuestEvent::PowerOff);
        }
    };
    for _ in 0..3 {
        ask();
        let waiting: Vec<_> = std::iter::from_fn(|| inbox.next()).collect();
        assert_eq!(waiting.len(), 2);
        inbox.keep(waiting);
    }
}

#[test]
fn one_reset_answers_all_that_were_asked_for_and_nothing_else_is_lost() {
    let (post, mut inbox) = Inbox::new().unwrap();
    post.guest(GuestEvent::Reset);
    post.send(Message::Signal);
    post.guest(GuestEvent::Reset);
    post.guest(GuestEvent::PowerOff);
    inbox.forget_resets();
    post.guest(GuestEvent::Reset);
    assert!(matches!(inbox.next(), Some(Message::Signal)));
    assert!(matches!(
        inbox.next(),
        Some(Message::Guest(GuestEvent::PowerOff))
    ));
    assert!(matches!(
        inbox.next(),
        Some(Message::Guest(GuestEvent::Reset))
    ));
    assert!(inbox.next().is_none());
}

#[test]
fn sending_to_a_machine_that_has_ended_does_nothing() {
    let (post, inbox) = Inbox::new().unwrap();
    drop(inbox);
    post.send(Message::Leave);
}
