//! Helper threads for calls that would block the device thread: fdatasync first of all, reads
//! that are not in the page cache, hole punching, and whatever the kernel has no other form of.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::Future,
    rc::Rc,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    thread::JoinHandle,
};

use super::Queue;

/// Threads at most. Each mostly sleeps in the kernel.
const MAX_THREADS: usize = 8;

/// How many of them work for jobs at a time at most: a guest's request waits for none of these.
const THREADS_FOR_JOBS: usize = 6;

/// Calls for guests in a row after which one for a job is carried out, if there is one: a guest's
/// request may wait for what that does.
const GUEST_CALLS_PER_JOB_CALL: usize = 32;

type Work = Box<dyn FnOnce() + Send>;

/// A pool of threads, started as they are needed and joined when it is dropped. Calls of tasks on
/// the guest queue are carried out before those of jobs.
#[derive(Default)]
pub struct Helpers {
    waiting: Arc<Waiting>,
    threads: RefCell<Vec<JoinHandle<()>>>,
    under_way: Rc<Cell<usize>>,
    /// A task on the job queue is being polled.
    for_job: Cell<bool>,
    /// Bytes of a thread's stack, if not as many as usual.
    stack: Option<usize>,
}

/// What the threads have not begun yet.
#[derive(Default)]
struct Waiting {
    calls: Mutex<Calls>,
    /// Told of one more call, and of the end.
    changed: Condvar,
}

#[derive(Default)]
struct Calls {
    for_guests: VecDeque<Work>,
    for_jobs: VecDeque<Work>,
    /// Threads that carry out a job's call.
    jobs_under_way: usize,
    /// Calls for guests that have been begun since the last one for a job.
    guests_in_a_row: usize,
    /// There will be no more.
    closed: bool,
}

/// Where a helper leaves its result and finds whom to wake.
struct Slot<T> {
    value: Option<T>,
    waker: Option<Waker>,
}

impl Helpers {
    /// Helpers whose threads cannot start.
    #[cfg(test)]
    pub(crate) fn without_threads() -> Self {
        let mut helpers = Self::default();
        helpers.stack = Some(1 << 60);
        helpers
    }

    /// Calls that are made from now on are those of tasks on `queue`.
    pub(crate) fn work_for(&self, queue: Queue) {
        self.for_job.set(queue == Queue::Job);
    }

    /// Runs `work` on a helper thread; on this one where the host has no thread to give: late is
    /// better than never. It starts at once, also if the future is not polled, and
    /// runs to its end, also if the future is dropped: it owns all that it touches.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + 'static {
        let slot = Arc::new(Mutex::new(Slot {
            value: None,
            waker: None,
        }));
        let result = slot.clone();
        self.under_way.set(self.under_way.get() + 1);
        let somebody = self.start_thread_if_needed();
        let work: Work = Box::new(move || {
            let value = work();
            let mut slot = result.lock().unwrap_or_else(PoisonError::into_inner);
            slot.value = Some(value);
            if let Some(waker) = slot.waker.take() {
                waker.wake();
            }
        });
        if somebody {
            self.waiting.push(work, self.for_job.get());
        } else {
            work();
        }
        let under_way = self.under_way.clone();
        std::future::poll_fn(move |cx| {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            match slot.value.take() {
                Some(value) => {
                    under_way.set(under_way.get() - 1);
                    Poll::Ready(value)
                }
                None => {
                    slot.waker = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
    }

    /// Whether there is a thread at all then.
    fn start_thread_if_needed(&self) -> bool {
        let mut threads = self.threads.borrow_mut();
        if threads.len() >= MAX_THREADS || threads.len() >= self.under_way.get() {
            return true;
        }
        let waiting = self.waiting.clone();
        let mut thread = std::thread::Builder::new().name("strata-helper".into());
        if let Some(stack) = self.stack {
            thread = thread.stack_size(stack);
        }
        let thread = thread.spawn(move || waiting.carry_out_all());
        match thread {
            Ok(thread) => threads.push(thread),
            Err(error) => tracing::warn!(%error, "could not start a helper thread"),
        }
        !threads.is_empty()
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, work: Work, for_job: bool) {
        let mut calls = self.lock();
        if for_job {
            calls.for_jobs.push_back(work);
        } else {
            calls.for_guests.push_back(work);
        }
        drop(calls);
        self.changed.notify_one();
    }

    /// What each thread does, until there will be nothing more to do.
    fn carry_out_all(&self) {
        let mut calls = self.lock();
        loop {
            if let Some((work, for_job)) = calls.next() {
                drop(calls);
                work();
                calls = self.lock();
                if for_job {
                    calls.jobs_under_way -= 1;
                    if !calls.for_jobs.is_empty() {
                        // This thread may have something of a guest's to do first.
                        self.changed.notify_one();
                    }
                }
            } else if calls.closed {
                // What is left is for the threads that work for jobs.
                return;
            } else {
                let waited = self.changed.wait(calls);
                calls = waited.unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
}

impl Calls {
    /// The call that is to be carried out next, if a thread may begin one, and whether it is a
    /// job's.
    fn next(&mut self) -> Option<(Work, bool)> {
        let may_help_job = self.jobs_under_way < THREADS_FOR_JOBS && !self.for_jobs.is_empty();
        let guests_first = !may_help_job || self.guests_in_a_row < GUEST_CALLS_PER_JOB_CALL;
        if guests_first && let Some(work) = self.for_guests.pop_front() {
            self.guests_in_a_row += 1;
            return Some((work, false));
        }
        if !may_help_job {
            return None;
        }
        let work = self.for_jobs.pop_front()?;
        self.guests_in_a_row = 0;
        self.jobs_under_way += 1;
        Some((work, true))
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        self.waiting.lock().closed = true;
        self.waiting.changed.notify_all();
        for thread in self.threads.take() {
            // A helper that panicked has already said so on standard error.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
