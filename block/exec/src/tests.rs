use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

use super::{
    Executor, GUEST_POLLS_PER_JOB_STEP, POLLS_PER_TURN, PutOff, Queue,
    sync::{Lock, WaitQueue},
    yield_now,
};

type Log = Rc<RefCell<Vec<&'static str>>>;

async fn say(log: Log, what: &'static str, times: usize) {
    for _ in 0..times {
        log.borrow_mut().push(what);
        yield_now().await;
    }
}

#[test]
fn guests_go_first_and_jobs_run_in_the_gaps() {
    let exec = Executor::new().unwrap();
    let log = Log::default();
    exec.spawn(Queue::Job, say(log.clone(), "job", 2));
    exec.spawn(Queue::Guest, say(log.clone(), "guest", 3));
    while exec.poll().more_work_now {}
    assert_eq!(*log.borrow(), ["guest", "guest", "guest", "job", "job"]);
    assert_eq!(exec.task_count(), 0);
}

#[test]
fn a_restless_guest_does_not_starve_a_job() {
    let exec = Executor::new().unwrap();
    let log = Log::default();
    exec.spawn(Queue::Guest, say(log.clone(), "guest", usize::MAX));
    exec.spawn(Queue::Job, say(log.clone(), "job", 1));
    assert!(exec.poll().more_work_now);
    assert!(log.borrow().contains(&"job"));
}

#[test]
fn helpers_work_elsewhere_and_wake_us() {
    let exec = Executor::new().unwrap();
    let here = std::thread::current().id();
    let helpers = exec.helpers().clone();
    let there = exec.block_on(async move {
        let first = helpers.run(|| std::thread::current().id());
        let second = helpers.run(|| 7);
        (first.await, second.await)
    });
    assert_ne!(there.0, here);
    assert_eq!(there.1, 7);
}

#[test]
fn sleeping_ends_at_the_deadline() {
    let exec = Executor::new().unwrap();
    let deadline = Instant::now() + Duration::from_millis(5);
    let sleeper = exec.clone();
    exec.block_on(async move { sleeper.sleep_until(deadline).await });
    assert!(Instant::now() >= deadline);
}

#[test]
fn one_holder_at_a_time() {
    let exec = Executor::new().unwrap();
    let (lock, inside) = (Rc::new(Lock::default()), Rc::new(Cell::new(0)));
    for _ in 0..4 {
        let (lock, inside) = (lock.clone(), inside.clone());
        exec.spawn(Queue::Guest, async move {
            let _guard = lock.lock().await;
            assert_eq!(inside.replace(1), 0);
            yield_now().await;
            inside.set(0);
        });
    }
    while exec.poll().more_work_now {}
    assert_eq!(exec.task_count(), 0);
}

#[test]
fn a_wait_ends_only_after_a_wake() {
    let exec = Executor::new().unwrap();
    let (queue, done) = (Rc::new(WaitQueue::default()), Rc::new(Cell::new(false)));
    let (waiter, flag) = (queue.clone(), done.clone());
    exec.spawn(Queue::Guest, async move {
        waiter.wait().await;
        flag.set(true);
    });
    while exec.poll().more_work_now {}
    assert!(!done.get());
    queue.wake_all();
    while exec.poll().more_work_now {}
    assert!(done.get());
}

#[test]
fn a_seed_repeats_an_order_and_another_changes_it() {
    let order = |seed| {
        let exec = Executor::seeded(seed).unwrap();
        let log = Rc::new(RefCell::new(Vec::new()));
        for task in 0..8 {
            let log = log.clone();
            exec.spawn(Queue::Guest, async move { log.borrow_mut().push(task) });
        }
        while exec.poll().more_work_now {}
        log.take()
    };
    assert_eq!(order(1), order(1));
    assert!((2..10).any(|seed| order(seed) != order(1)));
}

#[test]
fn without_a_thread_helpers_work_here() {
    let exec = Executor::new().unwrap();
    let here = std::thread::current().id();
    let helpers = super::Helpers::without_threads();
    let there = exec.block_on(async move { helpers.run(|| std::thread::current().id()).await });
    assert_eq!(there, here);
}

/// Writes down when it is carried out.
struct Later(Log);

impl PutOff for Later {
    fn carry_out(&self) {
        self.0.borrow_mut().push("later");
    }
}

#[test]
fn what_is_put_off_comes_after_the_guests_and_before_a_job() {
    let (exec, log) = (Executor::new().unwrap(), Log::default());
    let later = Rc::new(Later(log.clone()));
    assert!(!exec.put_off(later.clone()), "outside of a turn");
    let (inner, put_off) = (exec.clone(), later.clone());
    exec.spawn(Queue::Guest, async move { assert!(inner.put_off(put_off)) });
    exec.spawn(Queue::Guest, say(log.clone(), "guest", 1));
    let (inner, put_off, jobs) = (exec.clone(), later.clone(), log.clone());
    exec.spawn(Queue::Job, async move {
        jobs.borrow_mut().push("job");
        assert!(inner.put_off(put_off));
    });
    while exec.poll().more_work_now {}
    assert_eq!(log.take(), ["guest", "later", "job", "later"]);
    assert!(!exec.put_off(later));
    exec.poll();
    assert!(log.borrow().is_empty());
}

#[test]
fn a_guest_that_never_rests_does_not_hold_up_what_is_put_off() {
    let (exec, log) = (Executor::new().unwrap(), Log::default());
    let (inner, later) = (exec.clone(), Rc::new(Later(log.clone())));
    exec.spawn(Queue::Guest, async move { assert!(inner.put_off(later)) });
    exec.spawn(Queue::Guest, say(log.clone(), "guest", 2 * POLLS_PER_TURN));
    exec.poll();
    let at = log.borrow().iter().position(|what| *what == "later");
    assert!(at.unwrap() <= GUEST_POLLS_PER_JOB_STEP, "{at:?}");
}

#[test]
fn a_budget_is_shared_in_order_of_arrival() {
    let exec = Executor::new().unwrap();
    let budget = Rc::new(super::sync::Budget::new(10));
    let log = Rc::new(RefCell::new(Vec::new()));
    for (who, amount) in [("a", 6), ("b", 7), ("c", 1), ("d", 100)] {
        let (budget, log) = (budget.clone(), log.clone());
        exec.spawn(Queue::Guest, async move {
            let got = budget.take(amount).await;
            log.borrow_mut().push((who, got));
        });
    }
    let settle = || while exec.poll().more_work_now {};
    settle();
    // "c" would fit beside "a", but does not overtake "b".
    assert_eq!(log.take(), [("a", 6)]);
    assert!(budget.is_short());
    budget.give_back(6);
    settle();
    assert_eq!(log.take(), [("b", 7), ("c", 1)]);
    budget.give_back(7);
    settle();
    assert!(log.borrow().is_empty());
    budget.give_back(1);
    settle();
    assert_eq!(log.take(), [("d", 10)], "all there is");
    assert!(!budget.is_short());
}

#[test]
fn a_job_pays_for_its_own_polls_only() {
    let exec = Executor::new().unwrap();
    let seen = Rc::new(RefCell::new(Vec::new()));
    let long = Duration::from_millis(2);
    let (slow, log) = (exec.clone(), seen.clone());
    exec.spawn(Queue::Job, async move {
        std::thread::sleep(long);
        yield_now().await;
        let took = slow.take_longest_poll();
        log.borrow_mut().push(("slow", took >= long));
        log.borrow_mut()
            .push(("asked again", !slow.take_longest_poll().is_zero()));
    });
    let (quick, log) = (exec.clone(), seen.clone());
    exec.spawn(Queue::Job, async move {
        // Its first poll is not over, so it has held the thread for no time yet.
        log.borrow_mut()
            .push(("quick", !quick.take_longest_poll().is_zero()));
    });
    while exec.poll().more_work_now {}
    let all = [("quick", false), ("slow", true), ("asked again", false)];
    assert_eq!(*seen.borrow(), all);
    assert_eq!(exec.take_longest_poll(), Duration::ZERO, "outside tasks");
}

#[test]
fn tasks_are_listed_by_name_and_age() {
    let exec = Executor::new().unwrap();
    let gate = Rc::new(WaitQueue::default());
    let wait = |gate: &Rc<WaitQueue>| {
        let gate = gate.clone();
        async move { gate.wait().await }
    };
    exec.spawn_named(Queue::Guest, "the first", wait(&gate));
    exec.spawn_named(Queue::Job, Rc::new(format!("job {}", 7)), wait(&gate));
    exec.spawn(Queue::Guest, wait(&gate));
    let place = format!("{}:{}", file!(), line!() - 1);
    assert_eq!(exec.tasks()[0].polls, 0);
    while exec.poll().more_work_now {}

    let tasks = exec.tasks();
    let names: Vec<_> = tasks.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(names, ["the first", "job 7", place.as_str()]);
    assert!(tasks[0].age >= tasks[2].age);
    assert!(tasks.iter().all(|task| task.polls == 1));
    assert!(tasks[0].busy.is_none() && tasks[1].busy.is_some());
    assert_eq!(gate.waiting(), 3);

    gate.wake_all();
    while exec.poll().more_work_now {}
    assert!(exec.tasks().is_empty());
    assert_eq!(gate.waiting(), 0);
}

#[test]
fn a_group_is_waited_for_and_measured_as_one() {
    let exec = Executor::new().unwrap();
    let group = Rc::new(super::TaskGroup::new(&exec, Queue::Job, "a part"));
    let gate = Rc::new(WaitQueue::default());
    let long = Duration::from_millis(2);
    for busy in [Duration::ZERO, long] {
        let gate = gate.clone();
        group.spawn(async move {
            gate.wait().await;
            std::thread::sleep(busy);
        });
    }
    let (drained, members) = (Rc::new(Cell::new(false)), group.clone());
    let flag = drained.clone();
    exec.spawn(Queue::Job, async move {
        members.drain().await;
        flag.set(true);
    });
    while exec.poll().more_work_now {}
    assert_eq!((group.len(), drained.get()), (2, false));
    let names: Vec<_> = exec.tasks().into_iter().map(|task| task.name).collect();
    assert_eq!(names[..2], ["a part", "a part"]);
    // Other tasks' polls are not its own, and a task that ends in one is seen all the same.
    exec.spawn(Queue::Job, async move { std::thread::sleep(long * 20) });
    gate.wake_all();
    while exec.poll().more_work_now {}
    assert_eq!((group.len(), drained.get()), (0, true));
    let took = group.take_longest_poll();
    assert!(took >= long, "{took:?}");
    assert_eq!(group.take_longest_poll(), Duration::ZERO);
}
