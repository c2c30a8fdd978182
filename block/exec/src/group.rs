//! [`TaskGroup`]: tasks that do parts of one piece of work, several at a time.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    rc::Rc,
    time::{Duration, Instant},
};

use super::{Executor, Queue, TaskName, sync::WaitQueue};

/// Tasks that belong together. Whoever starts them sees to it that they are not too many, and that
/// all have ended before the work is called done: a group that is dropped ends nothing.
pub struct TaskGroup {
    exec: Rc<Executor>,
    queue: Queue,
    name: TaskName,
    members: Rc<Members>,
}

#[derive(Default)]
struct Members {
    count: Cell<usize>,
    /// Woken when one of them has ended.
    ended: WaitQueue,
    /// The longest that a poll of one of them has taken.
    longest_poll: Cell<Duration>,
}

impl TaskGroup {
    /// A group without tasks. Those to come will wait on `queue`, and be called `name`.
    pub fn new(exec: &Rc<Executor>, queue: Queue, name: impl Into<TaskName>) -> Self {
        Self {
            exec: exec.clone(),
            queue,
            name: name.into(),
            members: Rc::default(),
        }
    }

    /// Starts a task of the group.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let members = self.members.clone();
        members.count.set(members.count.get() + 1);
        let measured = !self.exec.simulated;
        let mut future = Box::pin(future);
        let name = self.name.clone();
        self.exec.spawn_named(self.queue, name, async move {
            poll_fn(|cx| {
                let started = measured.then(Instant::now);
                let polled = future.as_mut().poll(cx);
                if let Some(started) = started {
                    let longest = members.longest_poll.get().max(started.elapsed());
                    members.longest_poll.set(longest);
                }
                polled
            })
            .await;
            members.count.set(members.count.get() - 1);
            members.ended.wake_all();
        });
    }

    /// Tasks that have not ended.
    pub fn len(&self) -> usize {
        self.members.count.get()
    }

    /// Whether all tasks have ended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Waits until a task ends, if there is one.
    pub async fn wait_for_one(&self) {
        if !self.is_empty() {
            self.members.ended.wait().await;
        }
    }

    /// Waits until all tasks have ended.
    pub async fn drain(&self) {
        while !self.is_empty() {
            self.members.ended.wait().await;
        }
    }

    /// The longest that a poll of a task of the group has taken since the last call, also of one
    /// that has ended in it. Always 0 in simulations, which do not depend on the clock.
    pub fn take_longest_poll(&self) -> Duration {
        self.members.longest_poll.take()
    }
}
