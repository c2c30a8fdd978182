//! Tasks, their wakers and the queues of ready ones.

use std::{
    collections::VecDeque,
    fmt,
    panic::Location,
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    },
    task::{Context, Poll, Wake, Waker},
    thread::ThreadId,
    time::{Duration, Instant},
};

use super::{LocalBoxFuture, wake::WakeFd};

pub(super) type TaskId = u64;

/// Which queue a task waits on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// A guest's request, or a command that a person waits for.
    Guest,
    /// A job's step: runs in the gaps.
    Job,
}

/// What a task does, for people.
#[derive(Clone)]
pub enum TaskName {
    /// Nobody has said it: where the task was made.
    Place(&'static Location<'static>),
    /// The same words for all tasks of a kind.
    Words(&'static str),
    /// What the value says of itself when somebody asks.
    Shown(Rc<dyn fmt::Display>),
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Place(place) => write!(f, "{}:{}", place.file(), place.line()),
            Self::Words(words) => f.write_str(words),
            Self::Shown(value) => value.fmt(f),
        }
    }
}

impl From<&'static str> for TaskName {
    fn from(words: &'static str) -> Self {
        Self::Words(words)
    }
}

impl<T: fmt::Display + 'static> From<Rc<T>> for TaskName {
    fn from(value: Rc<T>) -> Self {
        Self::Shown(value)
    }
}

/// A task that has not ended, as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskInfo {
    /// Its number: tasks are counted in the order in which they were made.
    pub id: u64,
    /// What it does.
    pub name: String,
    /// The queue it waits on.
    pub queue: Queue,
    /// How long ago it was polled first; nothing if it has not been.
    pub age: Duration,
    /// How often it has been polled.
    pub polls: u64,
    /// How long it has held the thread in all; known of tasks of the job queue.
    pub busy: Option<Duration>,
}

/// What a task carries out.
pub(super) enum Work {
    /// A future of its own.
    Once(LocalBoxFuture<'static, ()>),
    /// One in memory that another task can have afterwards ([`Spawner`](super::Spawner)).
    Reused(Box<dyn Reused>),
}

impl Work {
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Once(future) => future.as_mut().poll(context),
            Self::Reused(future) => future.poll(context),
        }
    }

    /// It has ended.
    pub fn end(self) {
        match self {
            Self::Once(future) => drop(future),
            Self::Reused(future) => future.end(),
        }
    }
}

/// A future in memory that is used again.
pub(super) trait Reused {
    /// Polls the future.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()>;
    /// Drops the future, and lets another task have its memory.
    fn end(self: Box<Self>);
}

pub(super) struct Task {
    number: TaskId,
    /// Absent while the task is being polled.
    work: Option<Work>,
    name: TaskName,
    pub queue: Queue,
    /// When the turn began in which it was polled first.
    since: Option<Instant>,
    polls: u64,
    /// The longest that a poll has taken since the task last asked.
    pub longest_poll: Duration,
    /// What all polls have taken, of a task on the job queue.
    pub busy: Duration,
}

impl Task {
    /// The task, as people see it at this moment.
    fn info(&self, now: Instant) -> TaskInfo {
        TaskInfo {
            id: self.number,
            name: self.name.to_string(),
            queue: self.queue,
            age: self.since.map_or(Duration::ZERO, |since| now - since),
            polls: self.polls,
            busy: (self.queue == Queue::Job).then_some(self.busy),
        }
    }
}

/// A place for a task. Tasks come and go with every request, so its waker is used again, too, if
/// nobody has kept it.
struct Seat {
    task: Option<Task>,
    waker: Arc<TaskWaker>,
    /// The same; absent while the task is being polled.
    handle: Option<Waker>,
}

impl Seat {
    fn new(index: usize, ready: &Arc<ReadyQueues>) -> Self {
        let waker = Arc::new(TaskWaker {
            seat: index,
            number: AtomicU64::new(0),
            is_job: AtomicBool::new(false),
            queued: AtomicBool::new(false),
            ready: ready.clone(),
        });
        Self {
            task: None,
            handle: Some(Waker::from(waker.clone())),
            waker,
        }
    }

    /// Whether the waker of the last task is here and nowhere else.
    fn has_waker_to_itself(&self) -> bool {
        let alone = self.handle.is_some() && Arc::strong_count(&self.waker) == 2;
        // What others did with it comes before what the next task does.
        fence(Ordering::Acquire);
        alone
    }
}

/// All tasks that have not ended.
#[derive(Default)]
pub(super) struct Tasks {
    seats: Vec<Seat>,
    free: Vec<usize>,
    next_number: TaskId,
}

impl Tasks {
    /// Takes a task in, which is ready.
    pub fn insert(&mut self, work: Work, name: TaskName, queue: Queue, ready: &Arc<ReadyQueues>) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.seats.push(Seat::new(self.seats.len(), ready));
            self.seats.len() - 1
        });
        let seat = &mut self.seats[index];
        if !seat.has_waker_to_itself() {
            *seat = Seat::new(index, ready);
        }
        let number = self.next_number;
        self.next_number += 1;
        seat.waker.number.store(number, Ordering::Relaxed);
        let is_job = queue == Queue::Job;
        seat.waker.is_job.store(is_job, Ordering::Relaxed);
        seat.task = Some(Task {
            number,
            work: Some(work),
            name,
            queue,
            since: None,
            polls: 0,
            longest_poll: Duration::ZERO,
            busy: Duration::ZERO,
        });
        seat.waker.wake_by_ref();
    }

    /// Takes a task's work out for a poll, in the turn that began at `turn`; `None` if the task has
    /// ended.
    pub fn begin_poll(&mut self, ready: ReadyTask, turn: Instant) -> Option<(Work, Waker)> {
        let seat = self.seat_of(ready)?;
        let task = seat.task.as_mut()?;
        let work = task.work.take()?;
        task.since.get_or_insert(turn);
        task.polls += 1;
        let waker = seat.handle.take()?;
        Some((work, waker))
    }

    /// The poll is over, and the task is not: its work comes back. What is returned nobody needs.
    #[must_use]
    pub fn end_poll(&mut self, polled: ReadyTask, work: Work, waker: Waker) -> Option<Work> {
        let Some(seat) = self.seat_of(polled) else {
            return Some(work);
        };
        seat.handle = Some(waker);
        seat.task.as_mut()?.work.replace(work)
    }

    /// The poll is over, and so is the task, which is returned.
    #[must_use]
    pub fn end(&mut self, polled: ReadyTask, waker: Waker) -> Option<Task> {
        let seat = self.seat_of(polled)?;
        seat.handle = Some(waker);
        let task = seat.task.take();
        self.free.push(polled.seat);
        task
    }

    /// The place of a task that has not been dropped.
    fn seat_of(&mut self, polled: ReadyTask) -> Option<&mut Seat> {
        let seat = self.seats.get_mut(polled.seat)?;
        let task = seat.task.as_ref()?;
        (task.number == polled.number).then_some(seat)
    }

    /// The task in this place.
    pub fn get_mut(&mut self, seat: usize) -> Option<&mut Task> {
        self.seats.get_mut(seat)?.task.as_mut()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.seats.len() - self.free.len()
    }

    /// All of them, the oldest first.
    pub fn infos(&self) -> Vec<TaskInfo> {
        // One moment for all, so that ages compare.
        let now = Instant::now();
        let tasks = self.seats.iter().filter_map(|seat| seat.task.as_ref());
        let mut tasks: Vec<_> = tasks.map(|task| task.info(now)).collect();
        tasks.sort_unstable_by_key(|task| task.id);
        tasks
    }

    /// Takes all of them out.
    #[must_use]
    pub fn take_all(&mut self) -> Vec<Task> {
        let seats = self.seats.iter_mut().enumerate();
        let taken = seats.filter_map(|(index, seat)| {
            self.free.extend(seat.task.is_some().then_some(index));
            seat.task.take()
        });
        taken.collect()
    }
}

pub(super) struct TaskWaker {
    seat: usize,
    number: AtomicU64,
    is_job: AtomicBool,
    /// Set while the task is on its queue; `pop` clears it before the poll, so that a wake during
    /// the poll queues the task again.
    queued: AtomicBool,
    ready: Arc<ReadyQueues>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ready.push(self.clone());
        }
    }
}

/// A task that is ready, if it has not ended.
#[derive(Clone, Copy)]
pub(super) struct ReadyTask {
    pub seat: usize,
    number: TaskId,
}

/// The ready tasks. The mutex is held for a push or a pop only; wakers need it because they may be
/// called on any thread.
pub(super) struct ReadyQueues {
    queues: Mutex<Queues>,
    wake: Arc<WakeFd>,
    owner: ThreadId,
}

struct Queues {
    guest: VecDeque<Arc<TaskWaker>>,
    job: VecDeque<Arc<TaskWaker>>,
    /// State of the generator that shuffles, in simulations.
    order: Option<u64>,
}

impl ReadyQueues {
    pub fn new(wake: Arc<WakeFd>, order: Option<u64>) -> Self {
        let queues = Queues {
            guest: VecDeque::new(),
            job: VecDeque::new(),
            order,
        };
        Self {
            queues: Mutex::new(queues),
            wake,
            owner: std::thread::current().id(),
        }
    }

    fn push(&self, task: Arc<TaskWaker>) {
        let is_job = task.is_job.load(Ordering::Relaxed);
        let queue = if is_job { Queue::Job } else { Queue::Guest };
        self.lock().of(queue).push_back(task);
        if std::thread::current().id() != self.owner {
            self.wake.wake();
        }
    }

    pub fn pop(&self, queue: Queue) -> Option<ReadyTask> {
        let task = self.lock().take(queue)?;
        task.queued.store(false, Ordering::Release);
        Some(ReadyTask {
            seat: task.seat,
            number: task.number.load(Ordering::Relaxed),
        })
    }

    pub fn is_empty(&self) -> bool {
        let queues = self.lock();
        queues.guest.is_empty() && queues.job.is_empty()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    fn of(&mut self, queue: Queue) -> &mut VecDeque<Arc<TaskWaker>> {
        match queue {
            Queue::Guest => &mut self.guest,
            Queue::Job => &mut self.job,
        }
    }

    fn take(&mut self, queue: Queue) -> Option<Arc<TaskWaker>> {
        let Some(state) = self.order.as_mut() else {
            return self.of(queue).pop_front();
        };
        let random = crate::random::next(state);
        let ready = self.of(queue);
        let index = usize::try_from(random % ready.len().max(1) as u64).unwrap_or(0);
        ready.remove(index)
    }
}
