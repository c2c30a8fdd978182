use std::{cell::Cell, panic::AssertUnwindSafe, rc::Rc};

use strata_exec::{Executor, Queue, yield_now};

use super::*;

fn locks() -> (RankedLock, RankedLock) {
    let order = Rc::default();
    (
        RankedLock::new(Rank::Refcounts, &order),
        RankedLock::new(Rank::Header, &order),
    )
}

/// Runs a future and returns what it panicked with, if it did.
fn panic_of(exec: &Rc<Executor>, future: impl Future<Output = ()> + 'static) -> Option<String> {
    let run = AssertUnwindSafe(|| exec.block_on(future));
    let panic = std::panic::catch_unwind(run).err()?;
    Some(*panic.downcast::<String>().unwrap())
}

#[test]
fn locks_are_taken_in_their_order_any_number_of_times() {
    let (refcounts, header) = locks();
    let panic = panic_of(&Executor::new().unwrap(), async move {
        for _ in 0..2 {
            let _refcounts = refcounts.lock().await;
            let header = header.lock().await;
            drop(header);
        }
        let held = header.lock().await;
        drop(held);
        drop(refcounts.lock().await);
    });
    assert_eq!(panic, None);
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "asserted in debug builds")]
fn the_wrong_order_is_found_although_nobody_waits() {
    let (refcounts, header) = locks();
    let panic = panic_of(&Executor::new().unwrap(), async move {
        let _header = header.lock().await;
        let _refcounts = refcounts.lock().await;
    });
    let panic = panic.expect("the order is asserted");
    assert_eq!(
        panic,
        "the lock 'refcounts' is taken while 'header' is held"
    );
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "asserted in debug builds")]
fn a_lock_is_not_taken_twice() {
    let (refcounts, _) = locks();
    let panic = panic_of(&Executor::new().unwrap(), async move {
        let _first = refcounts.lock().await;
        let _second = refcounts.lock().await;
    });
    let panic = panic.expect("the order is asserted");
    assert_eq!(
        panic,
        "the lock 'refcounts' is taken while 'refcounts' is held"
    );
}

#[test]
#[cfg_attr(not(debug_assertions), ignore = "asserted in debug builds")]
fn nobody_waits_for_a_claim_with_a_lock() {
    let order = Rc::new(LockOrder::default());
    let header = RankedLock::new(Rank::Header, &order);
    let panic = panic_of(&Executor::new().unwrap(), async move {
        drop(header.lock().await);
        order.check_none().await;
        let _held = header.lock().await;
        order.check_none().await;
    });
    let panic = panic.expect("the order is asserted");
    assert_eq!(panic, "a claim is waited for while 'header' is held");
}

#[test]
fn what_another_task_holds_does_not_count() {
    let exec = Executor::new().unwrap();
    let (refcounts, header) = locks();
    let held_by_other = Rc::new(Cell::new(false));
    let (holder, held) = (exec.clone(), held_by_other.clone());
    let panic = panic_of(&exec, async move {
        holder.spawn(Queue::Guest, async move {
            let _header = header.lock().await;
            held.set(true);
            for _ in 0..10 {
                yield_now().await;
            }
            held.set(false);
        });
        while !held_by_other.get() {
            yield_now().await;
        }
        drop(refcounts.lock().await);
        assert!(held_by_other.get());
        while held_by_other.get() {
            yield_now().await;
        }
    });
    assert_eq!(panic, None);
}
