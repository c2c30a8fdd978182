use std::sync::{Arc, Mutex};

use super::{Calls, GUEST_CALLS_PER_JOB_CALL, THREADS_FOR_JOBS};

type Log = Arc<Mutex<Vec<&'static str>>>;

fn add(calls: &mut Calls, log: &Log, who: &'static str, count: usize) {
    let queue = if who == "job" {
        &mut calls.for_jobs
    } else {
        &mut calls.for_guests
    };
    for _ in 0..count {
        let log = log.clone();
        queue.push_back(Box::new(move || log.lock().unwrap().push(who)));
    }
}

#[test]
fn guests_calls_come_before_those_of_jobs() {
    let (mut calls, log) = (Calls::default(), Log::default());
    add(&mut calls, &log, "job", 2);
    add(&mut calls, &log, "guest", 2);
    while let Some((work, _)) = calls.next() {
        work();
    }
    assert_eq!(*log.lock().unwrap(), ["guest", "guest", "job", "job"]);
}

#[test]
fn guests_without_end_do_not_keep_a_job_from_its_turn() {
    let (mut calls, log) = (Calls::default(), Log::default());
    add(&mut calls, &log, "job", 1);
    add(&mut calls, &log, "guest", 3 * GUEST_CALLS_PER_JOB_CALL);
    while let Some((work, _)) = calls.next() {
        work();
    }
    let turn = log.lock().unwrap().iter().position(|who| *who == "job");
    assert_eq!(turn, Some(GUEST_CALLS_PER_JOB_CALL));
}

#[test]
fn jobs_leave_threads_for_guests() {
    let (mut calls, log) = (Calls::default(), Log::default());
    add(&mut calls, &log, "job", THREADS_FOR_JOBS + 1);
    for _ in 0..THREADS_FOR_JOBS {
        assert!(calls.next().is_some());
    }
    assert!(calls.next().is_none(), "the job has its share");
    add(&mut calls, &log, "guest", 1);
    assert!(matches!(calls.next(), Some((_, false))));
    calls.jobs_under_way -= 1;
    assert!(matches!(calls.next(), Some((_, true))));
}
