use super::*;

#[test]
fn messages_come_in_the_order_they_were_sent_and_wake() {
    let (post, mut inbox) = Inbox::new().unwrap();
    assert!(inbox.next().is_none());
    post.guest(GuestEvent::PowerOff);
    post.send(Message::Leave);
    assert_eq!(inbox.wake().read().unwrap(), 2);
    assert!(matches!(
        inbox.next(),
        Some(Message::Guest(GuestEvent::PowerOff))
    ));
    assert!(matches!(inbox.next(), Some(Message::Leave)));
    assert!(inbox.next().is_none());
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
