use std::{cell::RefCell, ops::Range, rc::Rc};

use strata_exec::{Executor, Queue, sync::WaitQueue};

use super::{Gate, InFlight, Mode};

type Log = Rc<RefCell<Vec<&'static str>>>;

/// Enters, notes its name, and stays until `leave` is woken.
fn visit(
    exec: &Executor,
    (table, log): (&Rc<InFlight>, &Log),
    name: &'static str,
    range: Range<u64>,
    mode: Mode,
) -> Rc<WaitQueue> {
    let leave = Rc::new(WaitQueue::default());
    let (table, log, left) = (table.clone(), log.clone(), leave.clone());
    exec.spawn(Queue::Guest, async move {
        let _guard = table.enter(range, mode).await;
        log.borrow_mut().push(name);
        left.wait().await;
    });
    settle(exec);
    leave
}

fn settle(exec: &Executor) {
    while exec.poll().more_work_now {}
}

#[test]
fn conflicting_entries_go_in_order_of_arrival() {
    let exec = Executor::new().unwrap();
    let (table, log) = (Rc::new(InFlight::default()), Log::default());
    let on = (&table, &log);
    let first = visit(&exec, on, "shared", 0..10, Mode::Shared);
    visit(&exec, on, "shared too", 5..15, Mode::Shared);
    let switch = visit(&exec, on, "exclusive", 0..4, Mode::Exclusive);
    visit(&exec, on, "behind it", 3..20, Mode::Shared);
    visit(&exec, on, "elsewhere", 20..30, Mode::Exclusive);
    assert_eq!(*log.borrow(), ["shared", "shared too", "elsewhere"]);
    first.wake_all();
    settle(&exec);
    assert_eq!(log.borrow().last(), Some(&"exclusive"));
    switch.wake_all();
    settle(&exec);
    assert_eq!(log.borrow().last(), Some(&"behind it"));
}

#[test]
fn a_drain_waits_for_those_inside_and_keeps_others_out() {
    let exec = Executor::new().unwrap();
    let (gate, log) = (Rc::new(Gate::default()), Log::default());
    let (leave, reopen) = (Rc::new(WaitQueue::default()), Rc::new(WaitQueue::default()));
    let (inside, left, said) = (gate.clone(), leave.clone(), log.clone());
    exec.spawn(Queue::Guest, async move {
        let _pass = inside.enter().await;
        left.wait().await;
        said.borrow_mut().push("left");
    });
    settle(&exec);
    let (draining, again, said) = (gate.clone(), reopen.clone(), log.clone());
    exec.spawn(Queue::Guest, async move {
        let _closed = draining.drain().await;
        said.borrow_mut().push("drained");
        again.wait().await;
    });
    settle(&exec);
    let (late, said) = (gate.clone(), log.clone());
    exec.spawn(Queue::Guest, async move {
        let _pass = late.enter().await;
        said.borrow_mut().push("late");
    });
    settle(&exec);
    assert!(log.borrow().is_empty());
    leave.wake_all();
    settle(&exec);
    assert_eq!(*log.borrow(), ["left", "drained"]);
    reopen.wake_all();
    settle(&exec);
    assert_eq!(*log.borrow(), ["left", "drained", "late"]);
    assert_eq!(gate.inside(), 0);
}
