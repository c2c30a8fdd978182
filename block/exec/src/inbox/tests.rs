use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::{Arc, mpsc::TryRecvError},
    thread,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{Inbox, channel};
use crate::{Executor, Queue};

fn is_readable<T>(inbox: &Inbox<T>) -> bool {
    let mut fds = [PollFd::new(inbox, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default())).unwrap() == 1
}

fn settle(exec: &Executor) {
    while exec.poll().more_work_now {}
}

#[test]
fn messages_keep_their_order_and_make_it_readable_until_all_are_received() {
    let (sender, inbox) = channel().unwrap();
    assert!(!is_readable(&inbox));
    for number in 0..3 {
        sender.send(number);
    }
    for number in 0..3 {
        assert!(is_readable(&inbox));
        assert_eq!(inbox.receive(), Ok(number));
    }
    assert_eq!(inbox.receive(), Err(TryRecvError::Empty));
    assert!(!is_readable(&inbox));
    sender.send(3);
    assert!(is_readable(&inbox));
}

#[test]
fn other_threads_wake_a_task() {
    const EACH: u32 = 5_000;
    let exec = Executor::new().unwrap();
    let (sender, inbox) = channel().unwrap();
    let inbox = inbox.watch(&exec).unwrap();
    let threads: Vec<_> = (0..2)
        .map(|who| {
            let sender = sender.clone();
            thread::spawn(move || (0..EACH).for_each(|number| sender.send((who, number))))
        })
        .collect();
    drop(sender);
    let counts = exec.block_on(async move {
        let mut next = [0, 0];
        while let Some((who, number)) = inbox.next().await {
            assert_eq!(number, next[who], "what one thread sends keeps its order");
            next[who] += 1;
        }
        next
    });
    assert_eq!(counts, [EACH, EACH]);
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn a_wake_without_a_message() {
    let exec = Executor::new().unwrap();
    let (_sender, inbox) = channel::<()>().unwrap();
    let inbox = Rc::new(inbox.watch(&exec).unwrap());
    let waker = inbox.waker();
    let rounds = Rc::new(Cell::new(0));
    let (seen, of_task) = (rounds.clone(), inbox.clone());
    exec.spawn(Queue::Guest, async move {
        loop {
            of_task.woken().await;
            seen.set(seen.get() + 1);
        }
    });
    settle(&exec);
    assert_eq!(rounds.get(), 0);
    for round in 1..=2 {
        thread::scope(|scope| scope.spawn(|| waker.wake()).join().unwrap());
        settle(&exec);
        assert_eq!(rounds.get(), round);
    }
    assert_eq!(inbox.receive(), Err(TryRecvError::Empty));
}

#[test]
fn who_waits_learns_that_the_last_sender_has_gone() {
    let exec = Executor::new().unwrap();
    let (sender, inbox) = channel().unwrap();
    let inbox = inbox.watch(&exec).unwrap();
    let log = Rc::new(RefCell::new(Vec::new()));
    let received = log.clone();
    exec.spawn(Queue::Guest, async move {
        while let Some(message) = inbox.next().await {
            received.borrow_mut().push(message);
        }
    });
    let other = sender.clone();
    other.send("last");
    drop(other);
    settle(&exec);
    assert_eq!((log.take(), exec.task_count()), (vec!["last"], 1));
    drop(sender);
    settle(&exec);
    assert_eq!(exec.task_count(), 0);
}

#[test]
fn an_inbox_without_senders_does_not_stay_readable() {
    let (sender, inbox) = channel::<()>().unwrap();
    drop(sender);
    assert!(is_readable(&inbox));
    assert_eq!(inbox.receive(), Err(TryRecvError::Disconnected));
    assert!(!is_readable(&inbox));
}

#[test]
fn what_nobody_will_receive_is_dropped() {
    let (sender, inbox) = channel().unwrap();
    let message = Arc::new(());
    sender.send(message.clone());
    assert_eq!(Arc::strong_count(&message), 2);
    drop(inbox);
    assert_eq!(Arc::strong_count(&message), 1);
    sender.send(message.clone());
    assert_eq!(Arc::strong_count(&message), 1);
}
