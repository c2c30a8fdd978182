//! Tasks, their wakers and the queues of ready ones.

use std::{
    collections::VecDeque,
    fmt,
    panic::Location,
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Wake, Waker},
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

pub(super) struct Task {
    /// Absent while the task is being polled.
    pub future: Option<LocalBoxFuture<'static, ()>>,
    pub waker: Waker,
    pub name: TaskName,
    pub queue: Queue,
    /// When the turn began in which it was polled first.
    pub since: Option<Instant>,
    pub polls: u64,
    /// The longest that a poll has taken since the task last asked.
    pub longest_poll: Duration,
    /// What all polls have taken, of a task on the job queue.
    pub busy: Duration,
}

impl Task {
    /// Takes the future out for a poll, in the turn that began at `turn`.
    pub fn take(&mut self, turn: Instant) -> Option<(LocalBoxFuture<'static, ()>, Waker)> {
        let future = self.future.take()?;
        self.since.get_or_insert(turn);
        self.polls += 1;
        Some((future, self.waker.clone()))
    }

    /// The task with this number, as people see it at this moment.
    pub fn info(&self, id: TaskId, now: Instant) -> TaskInfo {
        TaskInfo {
            id,
            name: self.name.to_string(),
            queue: self.queue,
            age: self.since.map_or(Duration::ZERO, |since| now - since),
            polls: self.polls,
            busy: (self.queue == Queue::Job).then_some(self.busy),
        }
    }
}

pub(super) struct TaskWaker {
    id: TaskId,
    queue: Queue,
    ready: Arc<ReadyQueues>,
    queued: Arc<AtomicBool>,
}

impl TaskWaker {
    pub fn new(id: TaskId, queue: Queue, ready: Arc<ReadyQueues>) -> Self {
        Self {
            id,
            queue,
            ready,
            queued: Arc::default(),
        }
    }
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Set while the task is on its queue; `pop` clears it before the poll, so that a wake
        // during the poll queues the task again.
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.ready.push(
                self.queue,
                ReadyTask {
                    id: self.id,
                    queued: self.queued.clone(),
                },
            );
        }
    }
}

struct ReadyTask {
    id: TaskId,
    queued: Arc<AtomicBool>,
}

/// The ready tasks. The mutex is held for a push or a pop only; wakers need it because they may be
/// called on any thread.
pub(super) struct ReadyQueues {
    queues: Mutex<Queues>,
    wake: Arc<WakeFd>,
    owner: ThreadId,
}

struct Queues {
    guest: VecDeque<ReadyTask>,
    job: VecDeque<ReadyTask>,
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

    fn push(&self, queue: Queue, task: ReadyTask) {
        self.lock().of(queue).push_back(task);
        if std::thread::current().id() != self.owner {
            self.wake.wake();
        }
    }

    pub fn pop(&self, queue: Queue) -> Option<TaskId> {
        let task = self.lock().take(queue)?;
        task.queued.store(false, Ordering::Release);
        Some(task.id)
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
    fn of(&mut self, queue: Queue) -> &mut VecDeque<ReadyTask> {
        match queue {
            Queue::Guest => &mut self.guest,
            Queue::Job => &mut self.job,
        }
    }

    fn take(&mut self, queue: Queue) -> Option<ReadyTask> {
        let Some(state) = self.order.as_mut() else {
            return self.of(queue).pop_front();
        };
        let random = crate::random::next(state);
        let ready = self.of(queue);
        let index = usize::try_from(random % ready.len().max(1) as u64).unwrap_or(0);
        ready.remove(index)
    }
}
