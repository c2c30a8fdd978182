//! Memory of a front end that is not there any more.
//!
//! A front end's memory is a file that it has given us, and that it can cut off: a thread that
//! touches what is missing gets SIGBUS, which ends the process and with it every other disk. So the
//! signal is handled: zeros take the place of the page that is missing, and the connection is
//! ended. (System calls on such memory just fail.)
#![allow(unsafe_code)] // Handles a signal, and maps pages in place of those that are missing.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex, Once, OnceLock, PoisonError, Weak,
        atomic::{AtomicI32, AtomicUsize, Ordering},
    },
};
use strata_exec::mem::to_usize;

use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

/// Regions of all front ends together at most. Each has a few.
const MAX_REGIONS: usize = 1024;

/// Sizes of pages that a missing one may have.
const PAGE_SIZES: [usize; 3] = [4 << 10, 2 << 20, 1 << 30];

/// A region that is watched. Read by the signal handler, without a lock.
struct Region {
    /// Address of its first byte; 0 for an entry that is free.
    start: AtomicUsize,
    len: AtomicUsize,
    /// The eventfd that is signalled.
    eventfd: AtomicI32,
}

static REGIONS: [Region; MAX_REGIONS] = [const {
    Region {
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        eventfd: AtomicI32::new(-1),
    }
}; MAX_REGIONS];

/// What has been entered, and for how long it counts. Held while [`REGIONS`] are changed.
static ENTERED: Mutex<Vec<Entered>> = Mutex::new(Vec::new());

struct Entered {
    memory: Weak<GuestMemoryMmap>,
    regions: Vec<usize>,
    /// Keeps the eventfd open for as long as it may be signalled.
    _eventfd: Arc<OwnedFd>,
}

/// What handled the signal before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// From now on, and until `memory` is dropped, `eventfd` is signalled when a part of it is
/// missing, and nothing worse happens.
///
/// # Errors
/// Too many regions are watched already, or the signal cannot be handled.
pub fn watch(memory: &Arc<GuestMemoryMmap>, eventfd: &Arc<OwnedFd>) -> io::Result<()> {
    install()?;
    let mut entered = ENTERED.lock().unwrap_or_else(PoisonError::into_inner);
    entered.retain(|old| {
        let used = old.memory.strong_count() > 0;
        if !used {
            old.regions.iter().for_each(|index| free(*index));
        }
        used
    });
    let mut new = Entered {
        memory: Arc::downgrade(memory),
        regions: Vec::new(),
        _eventfd: eventfd.clone(),
    };
    for region in memory.iter() {
        let is_free = |entry: &Region| entry.start.load(Ordering::Acquire) == 0;
        let Some(index) = REGIONS.iter().position(is_free) else {
            new.regions.iter().for_each(|index| free(*index));
            return Err(io::Error::other("too many regions of memory"));
        };
        let entry = &REGIONS[index];
        // A region lies in this process's address space.
        entry.len.store(to_usize(region.len()), Ordering::Release);
        entry.eventfd.store(eventfd.as_raw_fd(), Ordering::Release);
        entry
            .start
            .store(region.as_ptr() as usize, Ordering::Release);
        new.regions.push(index);
    }
    entered.push(new);
    Ok(())
}

fn free(index: usize) {
    REGIONS[index].start.store(0, Ordering::Release);
}

fn install() -> io::Result<()> {
    static INSTALLED: Once = Once::new();
    let mut result = Ok(());
    INSTALLED.call_once(|| {
        let (mut before, mut action) = (no_action(), no_action());
        // SAFETY: writes the structure, which lives through the call, and changes nothing else.
        unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut before) };
        // Before the handler can run.
        let _ = BEFORE.set(before);
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: reads the structure, which lives through the call. The handler touches nothing
        // but atomics and its own stack, and calls nothing that is not safe in a signal handler.
        let set = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
        if set != 0 {
            result = Err(io::Error::last_os_error());
        }
    });
    result
}

/// An action without flags, during which no other signal is held back.
fn no_action() -> libc::sigaction {
    // SAFETY: zeros are a valid `sigaction`, and an empty mask.
    unsafe { std::mem::zeroed() }
}

extern "C" fn handle(_signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: there are no conditions.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: this thread's own, which lives as long as the thread.
    let before = unsafe { errno.read() };
    // SAFETY: the kernel hands a valid `siginfo_t`.
    let info = unsafe { &*info };
    // With a code of the kernel's own (greater than 0) the address of a fault follows.
    // SAFETY: it does so for SIGBUS.
    let address = unsafe { info.si_addr() } as usize;
    if info.si_code <= 0 || !replace(address) {
        // None of ours: the instruction runs again, and what was there before handles it.
        if let Some(action) = BEFORE.get() {
            // SAFETY: reads the structure, which is never changed.
            unsafe { libc::sigaction(libc::SIGBUS, action, std::ptr::null_mut()) };
        }
    }
    // SAFETY: as above.
    unsafe { errno.write(before) };
}

/// Puts zeros in the place of the page at `address`, if that is watched, and rings.
fn replace(address: usize) -> bool {
    for region in &REGIONS {
        let start = region.start.load(Ordering::Acquire);
        let len = region.len.load(Ordering::Acquire);
        if start == 0 || address < start || address - start >= len {
            continue;
        }
        let mapped = PAGE_SIZES.iter().any(|size| {
            let page = address & !(size - 1);
            page >= start
                && page - start + size <= len.next_multiple_of(*size)
                && zeros(page, *size)
        });
        if mapped {
            signal(region.eventfd.load(Ordering::Acquire));
        }
        return mapped;
    }
    false
}

fn zeros(page: usize, size: usize) -> bool {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    let at = page as *mut libc::c_void;
    // SAFETY: the page lies in a mapping of the front end's memory, which nothing reaches by
    // reference, and whose bytes may change at any time; it is unmapped as a whole with it.
    unsafe { libc::mmap(at, size, protection, flags, -1, 0) != libc::MAP_FAILED }
}

fn signal(eventfd: i32) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: reads 8 bytes of the stack. The descriptor is an eventfd that an entry keeps open;
    // that it is full, or somebody else's by now, is no error here.
    unsafe { libc::write(eventfd, one.as_ptr().cast(), one.len()) };
}
