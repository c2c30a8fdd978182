//! Who goes on when, by a clock of the test's own.

use std::time::Duration;

use super::*;

fn group(average: u64) -> (Rc<Executor>, Rc<ThrottleGroup>) {
    let exec = Executor::new().unwrap();
    let group = ThrottleGroup::new(exec.clone(), "g".to_owned());
    let mut limits = ThrottleLimits::default();
    limits.requests.total.average = average;
    group.set_limits(limits);
    (exec, group)
}

fn granted(wishes: &[Rc<Wish>]) -> Vec<bool> {
    let granted = wishes.iter().map(|wish| wish.granted.get() == Some(true));
    granted.collect()
}

#[test]
fn members_take_turns_however_much_one_asks_for() {
    let (_exec, group) = group(10);
    let (greedy, modest) = (group.join(), group.join());
    let mut wishes: Vec<_> = (0..6).map(|_| greedy.wish(Way::Write, 512)).collect();
    wishes.extend((0..2).map(|_| modest.wish(Way::Write, 512)));
    let start = Instant::now();
    let mut now = start;
    let mut order = Vec::new();
    while let Some(due) = group.release(Way::Write, now) {
        now = due;
        let before = order.len();
        let fresh = |n: &usize| wishes[*n].granted.get().is_some() && !order.contains(n);
        let new: Vec<_> = (0..wishes.len()).filter(fresh).collect();
        order.extend(new);
        assert!(order.len() > before);
    }
    order.extend(
        (0..wishes.len())
            .filter(|n| !order.contains(n))
            .collect::<Vec<_>>(),
    );
    // The bucket lets two go on at once; then one after the other.
    assert_eq!(order, [0, 6, 1, 7, 2, 3, 4, 5]);
    let took = now.duration_since(start);
    let expected = Duration::from_millis(600);
    assert!(
        took.abs_diff(expected) < Duration::from_millis(1),
        "{took:?}"
    );
}

#[test]
fn reads_do_not_wait_behind_writes() {
    let exec = Executor::new().unwrap();
    let group = ThrottleGroup::new(exec, "g".to_owned());
    let mut limits = ThrottleLimits::default();
    limits.requests.write.average = 1;
    group.set_limits(limits);
    let member = group.join();
    let writes: Vec<_> = (0..3).map(|_| member.wish(Way::Write, 512)).collect();
    let now = Instant::now();
    assert!(group.release(Way::Write, now).is_some());
    assert_eq!(granted(&writes), [true, false, false]);
    let read = member.wish(Way::Read, 512);
    assert_eq!(group.release(Way::Read, now), None);
    assert_eq!(granted(&[read]), [true]);
}

#[test]
fn what_comes_to_rest_goes_on_at_once_and_is_counted() {
    let (_exec, group) = group(10);
    let (member, other) = (group.join(), group.join());
    let mine: Vec<_> = (0..20).map(|_| member.wish(Way::Write, 512)).collect();
    let theirs = other.wish(Way::Write, 512);
    member.set_open(true);
    assert!(granted(&mine).iter().all(|granted| *granted));
    let due = group.release(Way::Write, Instant::now());
    assert_eq!(granted(&[theirs]), [false]);
    assert!(due.unwrap() > Instant::now() + Duration::from_secs(1));
}

#[test]
fn who_leaves_learns_that_nothing_was_counted() {
    let (exec, group) = group(1);
    let member = group.join();
    let mut passes = Vec::new();
    for _ in 0..3 {
        let result = Rc::new(Cell::new(None));
        let (slot, member) = (result.clone(), member.clone());
        exec.spawn(Queue::Guest, async move {
            slot.set(Some(member.pass(Way::Read, 1).await));
        });
        passes.push(result);
    }
    while exec.poll().more_work_now {}
    let results = || passes.iter().map(|result| result.get()).collect::<Vec<_>>();
    assert_eq!(results(), [Some(true), None, None]);
    member.leave();
    while exec.poll().more_work_now {}
    assert_eq!(results(), [Some(true), Some(false), Some(false)]);
}

#[test]
fn new_limits_count_for_what_waits() {
    let (exec, group) = group(1);
    let member = group.join();
    let ended = Rc::new(Cell::new(0));
    for _ in 0..5 {
        let (ended, member) = (ended.clone(), member.clone());
        exec.spawn(Queue::Guest, async move {
            member.pass(Way::Read, 1).await;
            ended.set(ended.get() + 1);
        });
    }
    while exec.poll().more_work_now {}
    assert_eq!(ended.get(), 1);
    group.set_limits(ThrottleLimits::default());
    while exec.poll().more_work_now {}
    assert_eq!((ended.get(), exec.task_count()), (5, 0));
}
