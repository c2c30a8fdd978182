use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Poll, Waker},
};

use super::SPARE;
use crate::{Executor, Queue, Spawner, yield_now};

/// Tasks that write their numbers down in the end, after as many turns.
fn spawner(log: &Rc<RefCell<Vec<usize>>>) -> Spawner<usize> {
    let log = log.clone();
    Spawner::new(Queue::Guest, move |turns| {
        let log = log.clone();
        async move {
            for _ in 0..turns {
                yield_now().await;
            }
            log.borrow_mut().push(turns);
        }
    })
}

fn run(exec: &Executor) {
    while exec.poll().more_work_now {}
}

#[test]
fn each_task_has_its_own_argument_name_and_end() {
    let (exec, log) = (Executor::new().unwrap(), Rc::default());
    let spawner = spawner(&log);
    for round in 0..3 {
        for turns in [2, 0, 1] {
            spawner.spawn(&exec, "counts", turns);
        }
        let tasks = exec.tasks();
        assert_eq!(tasks.len(), 3);
        let first = 3 * round;
        for (task, id) in tasks.iter().zip(first..) {
            assert_eq!((task.id, &*task.name, task.polls), (id, "counts", 0));
        }
        run(&exec);
        assert_eq!((log.take(), exec.task_count()), (vec![0, 1, 2], 0));
    }
}

#[test]
fn more_at_a_time_than_memory_is_kept_for() {
    let (exec, log) = (Executor::new().unwrap(), Rc::default());
    let spawner = spawner(&log);
    for _ in 0..2 {
        for turns in 0..2 * SPARE {
            spawner.spawn(&exec, "counts", turns % 3);
        }
        run(&exec);
        assert_eq!(log.take().len(), 2 * SPARE);
    }
}

#[test]
fn what_a_task_holds_goes_when_it_ends_and_may_spawn_another() {
    struct Again(Rc<Cell<u32>>, Rc<Executor>, Rc<Spawner<Option<Again>>>);
    impl Drop for Again {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
            self.2.spawn(&self.1, "the next one", None);
        }
    }
    let exec = Executor::new().unwrap();
    let spawner = Rc::new(Spawner::new(Queue::Guest, |held| async move {
        yield_now().await;
        drop(held);
    }));
    let dropped = Rc::new(Cell::new(0));
    let again = Again(dropped.clone(), exec.clone(), spawner.clone());
    spawner.spawn(&exec, "holds", Some(again));
    run(&exec);
    assert_eq!((dropped.get(), exec.task_count()), (1, 0));
    // The same where it is dropped half-way.
    let again = Again(dropped.clone(), exec.clone(), spawner.clone());
    spawner.spawn(&exec, "holds", Some(again));
    exec.drop_tasks();
    assert_eq!((dropped.get(), exec.task_count()), (2, 1));
    run(&exec);
    assert_eq!(exec.task_count(), 0);
}

#[test]
fn a_late_wake_of_a_task_that_has_ended_is_not_one_of_the_next() {
    let exec = Executor::new().unwrap();
    let kept: Rc<RefCell<Option<Waker>>> = Rc::default();
    let (keep, polls) = (kept.clone(), Rc::new(Cell::new(0)));
    let counted = polls.clone();
    let spawner = Spawner::new(Queue::Guest, move |first: bool| {
        let (keep, counted) = (keep.clone(), counted.clone());
        std::future::poll_fn(move |cx| {
            if first {
                *keep.borrow_mut() = Some(cx.waker().clone());
                return Poll::Ready(());
            }
            counted.set(counted.get() + 1);
            Poll::Pending
        })
    });
    spawner.spawn(&exec, "first", true);
    run(&exec);
    spawner.spawn(&exec, "second", false);
    run(&exec);
    assert_eq!(polls.get(), 1);
    kept.take().unwrap().wake();
    run(&exec);
    assert_eq!((polls.get(), exec.task_count()), (1, 1));
    exec.drop_tasks();
    assert_eq!(exec.task_count(), 0);
}
