//! [`Ring`]: reads, writes and flushes by io_uring, which neither block this thread nor need
//! another one.
//!
//! What the kernel works on (the open file, the memory, the list of its pieces) belongs to an entry
//! of the ring until the kernel has completed it, whatever happens to the task that waits. A ring
//! that the kernel refuses in the middle takes no more calls: those that the kernel has not seen
//! are returned to their callers, who have another way, and the others end as they would.
#![allow(unsafe_code)] // Hands addresses to the kernel, for longer than a call.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    fs::File,
    future::Future,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use io_uring::{IoUring, opcode, squeue, types};
use rustix::event::{PollFd, PollFlags, poll};

use super::mem::SgList;

/// Calls that are handed to the kernel in one system call, at most.
const SUBMISSIONS: u32 = 128;
/// Calls that the kernel works on at a time; others wait here. So completions always have room.
const UNDER_WAY: u32 = 512;
/// Pieces of memory per call (`UIO_MAXIOV`); what is left is for the caller to ask for again.
const MAX_PIECES: usize = 1024;

/// A call to the kernel, with all that it touches.
pub enum Call {
    /// Reads from an offset on; the result is the number of bytes read, 0 at the end of the file.
    Read(Arc<File>, u64, SgList),
    /// Writes at an offset; the result is the number of bytes written.
    Write(Arc<File>, u64, SgList),
    /// fdatasync.
    SyncData(Arc<File>),
    /// fallocate of a range, `offset` and `len`, in this mode.
    Allocate(Arc<File>, i32, u64, u64),
}

/// What has come of a call.
#[derive(Debug)]
pub enum Ended {
    /// The kernel's answer.
    Answered(io::Result<usize>),
    /// The kernel has not seen the call, and will not: the ring is broken.
    NotStarted,
}

/// A ring that the executor's thread shares with the kernel.
pub struct Ring {
    state: RefCell<State>,
    broken: Cell<bool>,
}

struct State {
    ring: IoUring,
    entries: Vec<Option<Entry>>,
    free: Vec<usize>,
    /// Entries that the kernel has not taken yet, in order of arrival.
    waiting: VecDeque<usize>,
    /// How many of those, from the front, are in the submission queue.
    pushed: usize,
    /// Entries that the kernel works on.
    under_way: usize,
}

/// A call, from its start until it has ended and its caller knows.
struct Entry {
    call: Call,
    /// The pieces of the call's memory, where the kernel finds them.
    pieces: Box<[libc::iovec]>,
    ended: Option<Ended>,
    waker: Option<Waker>,
    /// Nobody waits for the end.
    abandoned: bool,
}

impl Ring {
    /// A ring for the calling thread.
    ///
    /// # Errors
    /// The host has no io_uring, or forbids it.
    pub fn new() -> io::Result<Rc<Self>> {
        let ring = IoUring::builder()
            .setup_cqsize(UNDER_WAY)
            .dontfork()
            .build(SUBMISSIONS)?;
        Ok(Rc::new(Self {
            state: RefCell::new(State {
                ring,
                entries: Vec::new(),
                free: Vec::new(),
                waiting: VecDeque::new(),
                pushed: 0,
                under_way: 0,
            }),
            broken: Cell::new(false),
        }))
    }

    /// Starts a call, with the next [`Ring::submit`]. It runs to its end also if the future is
    /// dropped.
    pub fn start(self: &Rc<Self>, call: Call) -> impl Future<Output = Ended> + use<> {
        let started = (!self.broken.get()).then(|| self.state.borrow_mut().enter(call));
        Completion {
            ring: self.clone(),
            index: started,
        }
    }

    /// Hands calls to the kernel. Whether some have to wait for another try although nothing else
    /// may wake this thread.
    pub fn submit(&self) -> bool {
        if self.broken.get() {
            return false;
        }
        let mut state = self.state.borrow_mut();
        let result = state.submit();
        if let Err(error) = result {
            tracing::warn!(%error, "io_uring does not work any more: helper threads take its place");
            self.broken.set(true);
            let (wakers, dropped) = state.give_up_waiting();
            drop(state);
            drop(dropped);
            wake(wakers);
            return false;
        }
        !state.waiting.is_empty() && state.under_way < to_count(UNDER_WAY)
    }

    /// Wakes the tasks whose calls have ended. Costs no system call.
    pub fn reap(&self) {
        let (wakers, dropped) = self.state.borrow_mut().reap();
        wake(wakers);
        // These may come back here.
        drop(dropped);
    }
}

fn wake(wakers: Vec<Waker>) {
    for waker in wakers {
        waker.wake();
    }
}

fn to_count(count: u32) -> usize {
    super::mem::to_usize(count.into())
}

/// Readable when [`Ring::reap`] would find something.
impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let fd = self.state.borrow().ring.as_raw_fd();
        // SAFETY: the ring, which owns the descriptor, lives as long as `self` and is never
        // replaced.
        unsafe { BorrowedFd::borrow_raw(fd) }
    }
}

impl State {
    fn enter(&mut self, call: Call) -> usize {
        let pieces = match &call {
            Call::Read(_, _, data) | Call::Write(_, _, data) => {
                let pieces = data.pieces().take(MAX_PIECES);
                let to_iovec = |(base, len): (*mut u8, usize)| libc::iovec {
                    iov_base: base.cast(),
                    iov_len: len,
                };
                pieces.map(to_iovec).collect()
            }
            Call::SyncData(_) | Call::Allocate(..) => Box::default(),
        };
        let entry = Some(Entry {
            call,
            pieces,
            ended: None,
            waker: None,
            abandoned: false,
        });
        let index = if let Some(index) = self.free.pop() {
            self.entries[index] = entry;
            index
        } else {
            self.entries.push(entry);
            self.entries.len() - 1
        };
        self.waiting.push_back(index);
        index
    }

    /// # Errors
    /// The kernel takes no calls any more.
    fn submit(&mut self) -> io::Result<()> {
        loop {
            let room = to_count(UNDER_WAY) - self.under_way - self.pushed;
            let next = self.waiting.range(self.pushed..).take(room);
            let mut pushed = 0;
            for &index in next {
                let Some(entry) = &self.entries[index] else {
                    break;
                };
                let request = entry.request().user_data(index as u64);
                // SAFETY: what the request points at belongs to the entry, which stays where it is
                // in memory and is kept until the kernel's answer has come (`reap`).
                if unsafe { self.ring.submission().push(&request) }.is_err() {
                    break;
                }
                pushed += 1;
            }
            self.pushed += pushed;
            if self.pushed == 0 {
                return Ok(());
            }
            match self.ring.submit() {
                // No memory for it at the moment, which calls that end give back.
                Ok(0) if self.under_way > 0 => return Ok(()),
                Ok(0) => return Err(io::Error::from_raw_os_error(libc::EAGAIN)),
                Ok(taken) => {
                    self.waiting.drain(..taken);
                    self.pushed -= taken;
                    self.under_way += taken;
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN | libc::EBUSY) if self.under_way > 0 => return Ok(()),
                    _ => return Err(error),
                },
            }
        }
    }

    /// Takes the answers of the kernel: whom to wake, and what nobody has waited for.
    fn reap(&mut self) -> (Vec<Waker>, Vec<Entry>) {
        let (mut wakers, mut dropped) = (Vec::new(), Vec::new());
        for answer in self.ring.completion() {
            let index = super::mem::to_usize(answer.user_data());
            let result = answer.result();
            let Some(entry) = self.entries.get_mut(index).and_then(Option::as_mut) else {
                continue;
            };
            self.under_way -= 1;
            entry.ended = Some(Ended::Answered(
                usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result)),
            ));
            wakers.extend(entry.waker.take());
            if entry.abandoned {
                dropped.extend(self.entries[index].take());
                self.free.push(index);
            }
        }
        (wakers, dropped)
    }

    /// Ends the calls that the kernel has not taken, and never will: it only looks into the
    /// submission queue when it is asked to.
    fn give_up_waiting(&mut self) -> (Vec<Waker>, Vec<Entry>) {
        let (mut wakers, mut dropped) = (Vec::new(), Vec::new());
        self.pushed = 0;
        for index in std::mem::take(&mut self.waiting) {
            let Some(entry) = &mut self.entries[index] else {
                continue;
            };
            entry.ended = Some(Ended::NotStarted);
            wakers.extend(entry.waker.take());
            if entry.abandoned {
                dropped.extend(self.entries[index].take());
                self.free.push(index);
            }
        }
        (wakers, dropped)
    }
}

impl Entry {
    /// The call as the kernel reads it.
    fn request(&self) -> squeue::Entry {
        let fd = |file: &Arc<File>| types::Fd(file.as_raw_fd());
        let pieces = self.pieces.as_ptr();
        // There are `MAX_PIECES` at most.
        let count = u32::try_from(self.pieces.len()).unwrap_or(0);
        match &self.call {
            Call::Read(file, offset, _) => opcode::Readv::new(fd(file), pieces, count)
                .offset(*offset)
                .build(),
            Call::Write(file, offset, _) => opcode::Writev::new(fd(file), pieces, count)
                .offset(*offset)
                .build(),
            Call::SyncData(file) => opcode::Fsync::new(fd(file))
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
            Call::Allocate(file, mode, offset, len) => opcode::Fallocate::new(fd(file), *len)
                .offset(*offset)
                .mode(*mode)
                .build(),
        }
    }
}

impl Drop for Ring {
    /// Waits for the kernel, which may be reading and writing what the entries own.
    fn drop(&mut self) {
        loop {
            self.reap();
            if self.state.borrow().under_way == 0 {
                return;
            }
            // Not by `io_uring_enter`, which may be what does not work any more.
            let _ = poll(&mut [PollFd::new(self, PollFlags::IN)], None);
        }
    }
}

/// The end of a call.
struct Completion {
    ring: Rc<Ring>,
    /// Its entry; absent if it has not been started, or its end has been seen.
    index: Option<usize>,
}

impl Future for Completion {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let Some(index) = self.index else {
            return Poll::Ready(Ended::NotStarted);
        };
        let mut state = self.ring.state.borrow_mut();
        let entry = state.entries[index].as_mut().expect("it is ours");
        let Some(ended) = entry.ended.take() else {
            entry.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        let entry = state.entries[index].take();
        state.free.push(index);
        drop(state);
        drop(entry);
        self.index = None;
        Poll::Ready(ended)
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        let Some(index) = self.index else { return };
        let mut state = self.ring.state.borrow_mut();
        let Some(entry) = state.entries[index].as_mut() else {
            return;
        };
        if entry.ended.is_none() {
            entry.abandoned = true;
            return;
        }
        let entry = state.entries[index].take();
        state.free.push(index);
        drop(state);
        drop(entry);
    }
}

#[cfg(test)]
mod tests;
