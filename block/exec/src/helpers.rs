//! Helper threads for calls that would block the device thread: fdatasync first of all, reads
//! that are not in the page cache, hole punching, and whatever the kernel has no other form of.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    task::{Poll, Waker},
    thread::JoinHandle,
};

/// Threads at most. Each mostly sleeps in the kernel.
const MAX_THREADS: usize = 8;

type Work = Box<dyn FnOnce() + Send>;

/// A pool of threads, started as they are needed and joined when it is dropped.
pub struct Helpers {
    queue: RefCell<Option<Sender<Work>>>,
    source: Arc<Mutex<Receiver<Work>>>,
    threads: RefCell<Vec<JoinHandle<()>>>,
    under_way: std::rc::Rc<Cell<usize>>,
    /// Bytes of a thread's stack, if not as many as usual.
    stack: Option<usize>,
}

impl Default for Helpers {
    fn default() -> Self {
        let (sender, receiver) = channel();
        Self {
            queue: RefCell::new(Some(sender)),
            source: Arc::new(Mutex::new(receiver)),
            threads: RefCell::default(),
            under_way: std::rc::Rc::default(),
            stack: None,
        }
    }
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
            let queue = self.queue.borrow();
            let sent = queue.as_ref().map(|queue| queue.send(work));
            assert!(
                matches!(sent, Some(Ok(()))),
                "the pool lives as long as its executor"
            );
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
        let source = self.source.clone();
        let mut thread = std::thread::Builder::new().name("strata-helper".into());
        if let Some(stack) = self.stack {
            thread = thread.stack_size(stack);
        }
        let thread = thread.spawn(move || {
            loop {
                let work = source.lock().unwrap_or_else(PoisonError::into_inner).recv();
                match work {
                    Ok(work) => work(),
                    Err(_) => return,
                }
            }
        });
        match thread {
            Ok(thread) => threads.push(thread),
            Err(error) => tracing::warn!(%error, "could not start a helper thread"),
        }
        !threads.is_empty()
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        self.queue.take();
        for thread in self.threads.take() {
            // A helper that panicked has already said so on standard error.
            let _ = thread.join();
        }
    }
}
