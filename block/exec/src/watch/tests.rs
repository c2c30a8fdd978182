use std::{
    cell::Cell,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    rc::Rc,
};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::Watched;
use crate::{Executor, Queue};

fn pair() -> (UnixStream, UnixStream) {
    let (mine, theirs) = UnixStream::pair().unwrap();
    mine.set_nonblocking(true).unwrap();
    (mine, theirs)
}

/// Polls until nothing is ready.
fn settle(exec: &Executor) {
    while exec.poll().more_work_now {}
}

/// Whether an outer event loop would wake up.
fn outer_would_wake(exec: &Executor) -> bool {
    let outer = Epoll::new().unwrap();
    let event = EpollEvent::new(EventSet::IN, 0);
    outer
        .ctl(ControlOperation::Add, exec.event_fd(), event)
        .unwrap();
    outer.wait(0, &mut [event]).unwrap() == 1
}

/// Starts a task that reads one byte after another and counts them; -1 is the end.
fn count_bytes(exec: &Rc<Executor>, socket: Rc<Watched<UnixStream>>) -> Rc<Cell<i64>> {
    let count = Rc::new(Cell::new(0));
    let seen = count.clone();
    exec.spawn(Queue::Guest, async move {
        loop {
            let read = socket.readable(|mut fd| fd.read(&mut [0])).await;
            if !matches!(read, Ok(1)) {
                return seen.set(-1);
            }
            seen.set(seen.get() + 1);
        }
    });
    count
}

#[test]
fn a_reader_wakes_for_every_arrival_and_the_outer_loop_sees_it() {
    let exec = Executor::new().unwrap();
    let (mine, mut theirs) = pair();
    let count = count_bytes(&exec, Rc::new(Watched::new(&exec, mine).unwrap()));
    settle(&exec);
    assert!(!outer_would_wake(&exec));
    for round in 1..=3 {
        theirs.write_all(b"ab").unwrap();
        assert!(outer_would_wake(&exec));
        settle(&exec);
        assert_eq!(count.get(), round * 2);
        assert!(!outer_would_wake(&exec));
    }
    drop(theirs);
    assert!(outer_would_wake(&exec));
    settle(&exec);
    assert_eq!(count.get(), -1);
}

#[test]
fn a_writer_waits_for_room() {
    let exec = Executor::new().unwrap();
    let (mine, mut theirs) = pair();
    let socket = Watched::new(&exec, mine).unwrap();
    let sent = Rc::new(Cell::new(0));
    let counter = sent.clone();
    exec.spawn(Queue::Guest, async move {
        while counter.get() < 4 << 20 {
            let n = socket.writable(|mut fd| fd.write(&[7; 65536])).await;
            counter.set(counter.get() + n.unwrap());
        }
    });
    settle(&exec);
    let before = sent.get();
    assert!(before < 4 << 20, "the socket buffers cannot be that large");
    let mut received = 0;
    while exec.task_count() > 0 {
        received += theirs.read(&mut [0; 65536]).unwrap();
        settle(&exec);
    }
    assert!(received <= sent.get() && sent.get() > before);
}

#[test]
fn both_directions_wait_at_once() {
    let exec = Executor::new().unwrap();
    let (mine, mut theirs) = pair();
    let socket = Rc::new(Watched::new(&exec, mine).unwrap());
    let count = count_bytes(&exec, socket.clone());
    exec.spawn(Queue::Guest, async move {
        // Waits while the other side does not read, then fails with a broken pipe.
        while socket
            .writable(|mut fd| fd.write(&[7; 65536]))
            .await
            .is_ok()
        {}
    });
    settle(&exec);
    theirs.write_all(b"x").unwrap();
    settle(&exec);
    assert_eq!((count.get(), exec.task_count()), (1, 2));
    drop(theirs);
    settle(&exec);
    assert_eq!((count.get(), exec.task_count()), (-1, 0));
}

#[test]
fn shutting_down_ends_a_wait() {
    let exec = Executor::new().unwrap();
    let (mine, _theirs) = pair();
    let socket = Rc::new(Watched::new(&exec, mine).unwrap());
    let count = count_bytes(&exec, socket.clone());
    settle(&exec);
    socket.get().shutdown(Shutdown::Both).unwrap();
    settle(&exec);
    assert_eq!((count.get(), exec.task_count()), (-1, 0));
}

#[test]
fn a_descriptor_that_went_with_an_event_pending_disturbs_nobody() {
    let exec = Executor::new().unwrap();
    let (first, mut to_first) = pair();
    let (second, mut to_second) = pair();
    let first = Watched::new(&exec, first).unwrap();
    let count = count_bytes(&exec, Rc::new(Watched::new(&exec, second).unwrap()));
    settle(&exec);
    to_first.write_all(b"x").unwrap();
    to_second.write_all(b"x").unwrap();
    // Its number is free for another descriptor from here on.
    drop(first);
    let (third, _to_third) = pair();
    let idle = count_bytes(&exec, Rc::new(Watched::new(&exec, third).unwrap()));
    settle(&exec);
    assert_eq!((count.get(), idle.get()), (1, 0));
}

#[test]
fn a_regular_file_cannot_be_watched() {
    let exec = Executor::new().unwrap();
    assert!(Watched::new(&exec, tempfile::tempfile().unwrap()).is_err());
}
