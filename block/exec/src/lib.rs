//! A single-thread executor with two queues: guest requests first, jobs in the gaps.
//!
//! Everything in the block layer runs here, on the device thread. Wakers may be called on any
//! thread (helper threads do); they put the task back on its queue and signal the executor's
//! eventfd. That and the descriptors that tasks wait for ([`Watched`]) are in one epoll instance,
//! which the device thread's epoll loop watches in turn.

#![cfg_attr(not(test), warn(clippy::cast_possible_truncation))]

mod group;
mod helpers;
pub mod histogram;
pub mod inbox;
pub mod mem;
pub mod random;
mod rate;
pub mod ring;
mod spawner;
pub mod sync;
mod task;
mod timer;
mod wake;
mod watch;

use std::{
    cell::{Cell, OnceCell, RefCell},
    future::Future,
    io,
    os::fd::RawFd,
    panic::Location,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

pub use group::TaskGroup;
pub use helpers::Helpers;
use histogram::Histogram;
pub use rate::Rate;
pub use rate::SpeedLimit;
use ring::Ring;
pub use spawner::Spawner;
use sync::WaitQueue;
pub use task::{Queue, TaskInfo, TaskName};
use task::{ReadyQueues, ReadyTask, Tasks, Work};
use timer::Timers;
use wake::WakeFd;
use watch::Reactor;
pub use watch::Watched;

/// A future that stays on the thread that made it.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Guest polls in a row after which one job step may run although guest tasks are ready, so that a
/// guest that never rests cannot starve a job.
const GUEST_POLLS_PER_JOB_STEP: usize = 32;

/// Boundaries of [`Executor::job_polls`], in nanoseconds: 10 us to 10 ms.
const JOB_POLLS: [u64; 10] = [
    10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000,
];

/// Polls after which [`Executor::poll`] returns to the event loop.
const POLLS_PER_TURN: usize = 256;

/// What is put off until the tasks that are ready have had their turn ([`Executor::put_off`]).
pub trait PutOff {
    /// Does it.
    fn carry_out(&self);
}

/// What a call of [`Executor::poll`] left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Tasks are ready: poll again after a look at the other event sources.
    pub more_work_now: bool,
    /// The earliest time at which a sleeping task wants to be polled.
    pub next_deadline: Option<Instant>,
}

/// The executor. Lives on one thread; shared there as `Rc`.
///
/// ```
/// use std::{cell::Cell, rc::Rc};
/// use strata_exec::{Executor, Queue};
///
/// let exec = Executor::new()?;
/// let steps = Rc::new(Cell::new(0));
/// let counted = steps.clone();
/// exec.spawn_named(Queue::Job, "an example", async move {
///     for _ in 0..3 {
///         counted.set(counted.get() + 1);
///         strata_exec::yield_now().await;
///     }
/// });
/// // The thread's event loop does this whenever `event_fd` is readable or a deadline is over.
/// while exec.poll().more_work_now {}
/// assert_eq!(steps.get(), 3);
/// // Programs without an event loop wait for one task, and everything else runs meanwhile.
/// assert_eq!(exec.block_on(async { 6 * 7 }), 42);
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Executor {
    ready: Arc<ReadyQueues>,
    wake: Arc<WakeFd>,
    tasks: RefCell<Tasks>,
    timers: RefCell<Timers>,
    reactor: Rc<Reactor>,
    helpers: Rc<Helpers>,
    /// Made when somebody first asks for it; absent where the host refuses it.
    ring: OnceCell<Option<Rc<Ring>>>,
    /// Runs by a seed, and must not depend on the clock.
    simulated: bool,
    /// Nobody waits for what has gone away any more.
    gave_up: Cell<bool>,
    /// How long polls of tasks on the job queue have taken.
    job_polls: RefCell<Histogram>,
    giving_up: WaitQueue,
    /// The place of the task that is being polled.
    current: Cell<Option<usize>>,
    /// When the turn began that tasks are being polled in.
    turn: Cell<Instant>,
    /// Tasks are being polled, and what is put off is carried out afterwards.
    may_put_off: Cell<bool>,
    put_off: RefCell<Vec<Rc<dyn PutOff>>>,
}

impl Executor {
    /// An executor for the calling thread.
    ///
    /// # Errors
    /// The host's error if no eventfd or epoll instance can be had.
    pub fn new() -> io::Result<Rc<Self>> {
        Self::with_order(None)
    }

    /// An executor that picks among the ready tasks in an order that depends on `seed` only:
    /// simulations use it to try interleavings and to repeat them.
    ///
    /// # Errors
    /// The host's error if no eventfd or epoll instance can be had.
    pub fn seeded(seed: u64) -> io::Result<Rc<Self>> {
        Self::with_order(Some(seed))
    }

    fn with_order(seed: Option<u64>) -> io::Result<Rc<Self>> {
        let wake = Arc::new(WakeFd::new()?);
        Ok(Rc::new(Self {
            ready: Arc::new(ReadyQueues::new(wake.clone(), seed)),
            tasks: RefCell::default(),
            timers: RefCell::default(),
            reactor: Rc::new(Reactor::new(&wake)?),
            helpers: Rc::new(Helpers::default()),
            ring: OnceCell::new(),
            simulated: seed.is_some(),
            gave_up: Cell::new(false),
            job_polls: RefCell::new(
                Histogram::new(JOB_POLLS.to_vec()).expect("the boundaries ascend"),
            ),
            giving_up: WaitQueue::default(),
            current: Cell::default(),
            turn: Cell::new(Instant::now()),
            may_put_off: Cell::new(false),
            put_off: RefCell::default(),
            wake,
        }))
    }

    /// Readable when a task has been woken from another thread, or a descriptor that one waits for
    /// has become ready. Watch it level-triggered; [`Executor::poll`] resets it. It is open as long
    /// as the executor lives.
    pub fn event_fd(&self) -> RawFd {
        self.reactor.as_raw_fd()
    }

    /// The threads for calls that would block this one.
    pub fn helpers(&self) -> &Rc<Helpers> {
        &self.helpers
    }

    /// The io_uring of this executor, if the host lets us have one; otherwise the log says once why
    /// not.
    pub fn ring(&self) -> Option<Rc<Ring>> {
        let make = || {
            let ring = Ring::new()?;
            // It wakes the executor, which then looks at it.
            self.reactor.watch_for_executor(&*ring)?;
            Ok(ring)
        };
        let refused = |error: io::Error| {
            tracing::warn!(%error, "io_uring cannot be used here: aio=threads takes its place");
        };
        let ring = self.ring.get_or_init(|| make().map_err(refused).ok());
        ring.clone()
    }

    /// Hands the calls that tasks have made to the kernel; whether that has to be tried again.
    fn submit(&self) -> bool {
        let ring = self.ring.get().and_then(Option::as_ref);
        ring.is_some_and(|ring| ring.submit())
    }

    /// Runs `future` to its end on `queue`. It is first polled at the next [`Executor::poll`]. Its
    /// name is the caller's place in the source.
    #[track_caller]
    pub fn spawn(&self, queue: Queue, future: impl Future<Output = ()> + 'static) {
        let place = TaskName::Place(Location::caller());
        self.spawn_named(queue, place, future);
    }

    /// As [`Executor::spawn`], with a name that says to people what the task does.
    pub fn spawn_named(
        &self,
        queue: Queue,
        name: impl Into<TaskName>,
        future: impl Future<Output = ()> + 'static,
    ) {
        self.spawn_work(queue, name.into(), Work::Once(Box::pin(future)));
    }

    fn spawn_work(&self, queue: Queue, name: TaskName, work: Work) {
        let mut tasks = self.tasks.borrow_mut();
        tasks.insert(work, name, queue, &self.ready);
    }

    /// Tasks that have not ended.
    pub fn task_count(&self) -> usize {
        self.tasks.borrow().len()
    }

    /// Those tasks, the oldest first.
    pub fn tasks(&self) -> Vec<TaskInfo> {
        self.tasks.borrow().infos()
    }

    /// Has `what` be carried out once the guest tasks that are ready have been polled, or
    /// [`GUEST_POLLS_PER_JOB_STEP`] of them; before a job's step in any case. `false`, and nothing
    /// is put off, outside [`Executor::poll`]: nobody would come back to it.
    #[must_use]
    pub fn put_off(&self, what: Rc<dyn PutOff>) -> bool {
        if self.may_put_off.get() {
            self.put_off.borrow_mut().push(what);
        }
        self.may_put_off.get()
    }

    fn carry_out_what_was_put_off(&self) {
        if self.put_off.borrow().is_empty() {
            return;
        }
        let mut put_off = self.put_off.take();
        for what in put_off.drain(..) {
            what.carry_out();
        }
        // Its memory is for what is put off next.
        let next = self.put_off.take();
        self.put_off
            .replace(if next.is_empty() { put_off } else { next });
    }

    /// Drops every task where it waits. What is at rest for good may hold this executor, which
    /// would otherwise never go: for a caller that makes many of them.
    pub fn drop_tasks(&self) {
        // They may come back here while they are dropped.
        let tasks = self.tasks.borrow_mut().take_all();
        drop(tasks);
    }

    /// Polls ready tasks: guest tasks first, a job task when no guest task is ready or after
    /// [`GUEST_POLLS_PER_JOB_STEP`] of them, at most one job task a turn.
    pub fn poll(&self) -> Turn {
        // Before looking at the queues, so that a wake in between is not lost.
        self.wake.take();
        self.reactor.look();
        if let Some(ring) = self.ring.get().and_then(Option::as_ref) {
            ring.reap();
        }
        let now = Instant::now();
        self.turn.set(now);
        self.timers.borrow_mut().fire(now);
        let mut since_job = 0;
        self.may_put_off.set(true);
        for _ in 0..POLLS_PER_TURN {
            let job_is_due = since_job >= GUEST_POLLS_PER_JOB_STEP;
            let guest = if job_is_due {
                None
            } else {
                self.ready.pop(Queue::Guest)
            };
            if let Some(task) = guest {
                self.poll_task(task);
                since_job += 1;
                continue;
            }
            if let Some(task) = self.ready.pop(Queue::Job) {
                // A step may take a while.
                self.carry_out_what_was_put_off();
                self.submit();
                self.poll_job(task);
                break;
            }
            if !job_is_due {
                break;
            }
            since_job = 0;
            self.carry_out_what_was_put_off();
        }
        self.may_put_off.set(false);
        self.carry_out_what_was_put_off();
        let again = self.submit();
        Turn {
            more_work_now: again || !self.ready.is_empty(),
            next_deadline: self.timers.borrow().next_deadline(),
        }
    }

    /// Polls one ready task of `first`, or else of the other queue; whether there was one. For
    /// simulations that stop between any two polls.
    pub fn step(&self, first: Queue) -> bool {
        let other = if first == Queue::Guest {
            Queue::Job
        } else {
            Queue::Guest
        };
        let ready = self.ready.pop(first).or_else(|| self.ready.pop(other));
        ready.map(|task| self.poll_task(task)).is_some()
    }

    /// Runs everything until `future` ends: for tools, tests and start-up, where there is no event
    /// loop around.
    #[track_caller]
    pub fn block_on<T: 'static>(self: &Rc<Self>, future: impl Future<Output = T> + 'static) -> T {
        let slot = Rc::new(RefCell::new(None));
        let result = slot.clone();
        let place = TaskName::Place(Location::caller());
        self.spawn_named(Queue::Guest, place, async move {
            let value = future.await;
            *result.borrow_mut() = Some(value);
        });
        loop {
            let turn = self.poll();
            if let Some(value) = slot.borrow_mut().take() {
                return value;
            }
            if !turn.more_work_now {
                self.wait(turn.next_deadline);
            }
        }
    }

    /// From now on nobody waits for a peer (a server) that has gone away to come back.
    pub fn give_up_on_peers(&self) {
        self.gave_up.set(true);
        self.giving_up.wake_all();
    }

    /// Whether nobody waits for such a peer any more.
    pub fn has_given_up(&self) -> bool {
        self.gave_up.get()
    }

    /// Ends at `deadline`, or a little later, or when nobody is to wait any more.
    pub async fn wait_for_peer_until(&self, deadline: Instant) {
        if !self.has_given_up() {
            self.sleep_or(deadline, self.giving_up.wait()).await;
        }
    }

    /// Ends with `other`, or at `deadline` or a little later.
    pub async fn sleep_or(&self, deadline: Instant, other: impl Future<Output = ()>) {
        let (mut sleep, mut other) = (pin!(self.sleep_until(deadline)), pin!(other));
        std::future::poll_fn(|cx| {
            if other.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            sleep.as_mut().poll(cx)
        })
        .await;
    }

    /// Ends at `deadline`, or a little later.
    pub async fn sleep_until(&self, deadline: Instant) {
        std::future::poll_fn(|cx| {
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            self.timers
                .borrow_mut()
                .insert(deadline, cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// The longest that a poll of the calling task, on the job queue, has taken since it last
    /// asked: each task pays for itself. Always 0 outside tasks, and in simulations, which do not
    /// depend on the clock.
    pub fn take_longest_poll(&self) -> Duration {
        let mut tasks = self.tasks.borrow_mut();
        let task = self.current.get().and_then(|seat| tasks.get_mut(seat));
        task.map_or(Duration::ZERO, |task| {
            std::mem::take(&mut task.longest_poll)
        })
    }

    /// The time; `None` in simulations, which do not depend on it.
    pub fn clock(&self) -> Option<Instant> {
        (!self.simulated).then(Instant::now)
    }

    /// How long each poll of a task on the job queue has held the thread. Empty in simulations.
    pub fn job_polls(&self) -> Histogram {
        self.job_polls.borrow().clone()
    }

    fn poll_job(&self, task: ReadyTask) {
        let started = Instant::now();
        self.helpers.work_for(Queue::Job);
        let goes_on = self.poll_task(task);
        self.helpers.work_for(Queue::Guest);
        if self.simulated {
            return;
        }
        self.job_polls.borrow_mut().record(started.elapsed());
        if !goes_on {
            return;
        }
        if let Some(task) = self.tasks.borrow_mut().get_mut(task.seat) {
            let took = started.elapsed();
            task.longest_poll = task.longest_poll.max(took);
            task.busy += took;
        }
    }

    /// Polls a task; whether it goes on.
    fn poll_task(&self, task: ReadyTask) -> bool {
        // The work is taken out so that the task may spawn others while it runs.
        let taken = self.tasks.borrow_mut().begin_poll(task, self.turn.get());
        let Some((mut work, waker)) = taken else {
            return false;
        };
        let outer = self.current.replace(Some(task.seat));
        let polled = work.poll(&mut Context::from_waker(&waker));
        self.current.set(outer);
        if polled.is_ready() {
            // What goes with it may come back here: not while the tasks are borrowed.
            let ended = self.tasks.borrow_mut().end(task, waker);
            drop(ended);
            work.end();
        } else {
            let unused = self.tasks.borrow_mut().end_poll(task, work, waker);
            drop(unused);
        }
        polled.is_pending()
    }

    /// Sleeps until a task is woken or `deadline`.
    fn wait(&self, deadline: Option<Instant>) {
        let timeout = deadline.map_or(-1, |at| {
            let left = at.saturating_duration_since(Instant::now());
            // Rounded up: a millisecond too early would be a turn for nothing.
            i32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
        });
        self.reactor.wait(timeout);
    }
}

/// Lets every other ready task run once before this one goes on.
pub async fn yield_now() {
    let mut yielded = false;
    std::future::poll_fn(|cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests;
