//! [`Spawner`]: for tasks of one kind that come and go with every request.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll},
};

use super::{
    Executor, Queue,
    task::{Reused, TaskName, Work},
};

/// Memory of tasks that have ended and is kept for the next ones, at most: what a disk's usual
/// depth of requests takes.
const SPARE: usize = 64;

/// Makes tasks that all do the same with different arguments. A task's memory is used again by a
/// later one, so that it takes none from the allocator.
pub struct Spawner<A>(Box<Spawn<A>>);

/// Makes a task with this name and this argument.
type Spawn<A> = dyn Fn(&Executor, TaskName, A);

impl<A: 'static> Spawner<A> {
    /// For tasks on `queue` that carry out what `make` makes of their arguments.
    pub fn new<F>(queue: Queue, make: impl Fn(A) -> F + 'static) -> Self
    where
        F: Future<Output = ()> + 'static,
    {
        let spare = Rc::new(Spare::<F>(RefCell::default()));
        Self(Box::new(move |exec, name, argument| {
            let task = spare.task(make(argument));
            exec.spawn_work(queue, name, Work::Reused(task));
        }))
    }

    /// As [`Executor::spawn_named`].
    pub fn spawn(&self, exec: &Executor, name: impl Into<TaskName>, argument: A) {
        (self.0)(exec, name.into(), argument);
    }
}

/// Memory that waits for another task.
#[allow(clippy::vec_box)] // The boxes are what is kept.
struct Spare<F>(RefCell<Vec<Box<Memory<F>>>>);

/// Memory of a task: with a future while there is one.
struct Memory<F> {
    future: Pin<Box<Option<F>>>,
    home: Weak<Spare<F>>,
}

impl<F: Future<Output = ()> + 'static> Spare<F> {
    fn task(self: &Rc<Self>, future: F) -> Box<Memory<F>> {
        let spare = self.0.borrow_mut().pop();
        match spare {
            Some(mut memory) => {
                memory.future.set(Some(future));
                memory
            }
            None => Box::new(Memory {
                future: Box::pin(Some(future)),
                home: Rc::downgrade(self),
            }),
        }
    }
}

impl<F: Future<Output = ()> + 'static> Reused for Memory<F> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self.future.as_mut().as_pin_mut() {
            Some(future) => future.poll(context),
            None => Poll::Ready(()),
        }
    }

    fn end(mut self: Box<Self>) {
        // What it holds goes at once, and may come back here meanwhile.
        self.future.set(None);
        if let Some(home) = self.home.upgrade() {
            let mut spare = home.0.borrow_mut();
            if spare.len() < SPARE {
                spare.push(self);
            }
        }
    }
}

#[cfg(test)]
mod tests;
